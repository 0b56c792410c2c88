"""What every command promises at its edge: exit codes, one line for an error, and where a value comes from."""

import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from pydantic_core import SchemaValidator, core_schema

from db.refusals import DatabaseUnusable
from producer.cli.enqueue import main as enqueue
from producer.cli.flags.param_types import Phrase
from workers.cli import base, opening
from workers.errors import NoSuchRun, Unreachable, UsageError


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SAM3_")]:
        monkeypatch.delenv(name)


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> "Runner":
    return Runner(capfd)


class Runner:
    """Runs a command as a program in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, command: base.Sam3Command, *args: str) -> Ended:
        with pytest.raises(SystemExit) as end:
            command.main(list(args), "sam3-probe")
        printed = self._capture.readouterr()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, printed.out, printed.err)


def failing(error: BaseException) -> base.Sam3Command:
    @base.command("sam3-probe")
    def command() -> int:
        raise error

    return command


def ending(code: int | None) -> base.Sam3Command:
    @base.command("sam3-probe")
    def command() -> int | None:
        return code

    return command


@base.command("sam3-probe")
@click.option("--prompt", type=Phrase(), multiple=True)
@click.option("--batch-size", type=click.IntRange(1, 256))
@click.option("--threshold", type=float, default=0.5)
@click.option("--until-empty", is_flag=True)
def probe(**flags: object) -> None:
    """Tells what it was given, and the settings that come of it."""
    settings = base.settings(batch_size=flags["batch_size"])
    click.echo(json.dumps(flags | {"effective": settings.batch_size, "model": settings.model}))


@pytest.mark.parametrize("code", [0, 1])
def test_what_a_command_returns_is_its_exit_code(run: Runner, code: int) -> None:
    assert run(ending(code)) == Ended(code, "", "")


def test_a_command_that_returns_nothing_ends_with_0(run: Runner) -> None:
    assert run(ending(None)).code == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("--gpus 9: there is no GPU 9"), 2),
        (DatabaseUnusable("--gpus 9: there is no GPU 9"), 2),
        (Unreachable("--gpus 9: there is no GPU 9"), 3),
        (NoSuchRun("--gpus 9: there is no GPU 9"), 4),
    ],
)
def test_an_expected_error_is_one_line_on_stderr_and_its_exit_code(run: Runner, error: Exception, code: int) -> None:
    assert run(failing(error)) == Ended(code, "", "sam3-probe: error: --gpus 9: there is no GPU 9\n")


def test_an_unexpected_error_is_one_line_too_and_says_how_to_see_more(run: Runner) -> None:
    ended = run(failing(RuntimeError("first line\nsecond line")))
    assert ended == Ended(
        1,
        "",
        "sam3-probe: error: unexpected RuntimeError: first line; run it again with --debug for the traceback\n",
    )


def test_what_an_error_quotes_neither_breaks_its_line_nor_commands_the_terminal(run: Runner) -> None:
    ended = run(failing(UsageError("no run called a\x1b[2J\r\nb\udcff")))
    assert ended.stderr == "sam3-probe: error: no run called a\\x1b[2J\\r\\nb\\udcff\n"


class Interrupted:
    """Ctrl-C while Python makes the class that has this attribute, as happens when a library is imported."""

    def __set_name__(self, owner: type, name: str) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_while_a_class_is_made_is_ctrl_c(run: Runner) -> None:
    @base.command("sam3-probe")
    def command() -> None:
        type("Made", (), {"attribute": Interrupted()})

    ended = run(command)
    assert (ended.code, ended.stderr) == (130, "")


def test_ctrl_c_while_pydantic_makes_a_validator_is_ctrl_c(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    @base.command("sam3-probe")
    def command() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("re.compile", interrupted)
            SchemaValidator(core_schema.str_schema(pattern="a+", regex_engine="python-re"))

    ended = run(command)
    assert (ended.code, ended.stderr) == (130, "")


def test_ctrl_c_ends_with_130_and_without_a_traceback(run: Runner) -> None:
    ended = run(failing(KeyboardInterrupt()))
    assert ended.code == 130
    assert "Traceback" not in ended.stderr


def test_debug_shows_the_traceback_before_the_line(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run(failing(UsageError("no such thing")), "--debug")
    assert ended.code == 2
    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("sam3-probe: error: no such thing\n")
    monkeypatch.setenv("SAM3_DEBUG", "1")
    assert run(failing(UsageError("no such thing"))).stderr.startswith("Traceback")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--batch-size", "0"], "--batch-size"),
        (["--batch-size", "x"], "--batch-size"),
        (["stray"], "stray"),
    ],
)
def test_a_wrong_flag_is_one_line_that_names_it_and_points_to_help(run: Runner, args: list[str], said: str) -> None:
    ended = run(probe, *args)
    assert ended.code == 2
    assert said in ended.stderr
    assert ended.stderr.endswith("see sam3-probe --help\n")
    assert ended.stderr.count("\n") == 1


def test_a_wrong_setting_in_the_environment_names_the_variable(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_LEASE_SECONDS", "soon")
    ended = run(probe)
    assert ended.code == 2
    assert ended.stderr.startswith("sam3-probe: error: SAM3_LEASE_SECONDS: ")
    assert ended.stderr.count("\n") == 1


def test_help_goes_to_stdout_and_imports_no_torch(run: Runner) -> None:
    ended = run(probe, "--help")
    assert ended.code == 0
    assert "--batch-size" in ended.stdout
    assert "--config" in ended.stdout


def test_version_names_the_packages_that_matter_and_imports_none_of_them(run: Runner) -> None:
    ended = run(probe, "--version")
    assert ended.code == 0
    assert ended.stdout.startswith("sam3-queue ")
    for package in ("Python", "torch", "transformers", "celery"):
        assert package in ended.stdout


def effective(run: Runner, *args: str) -> dict[str, object]:
    ended = run(probe, *args)
    assert ended.code == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert isinstance(facts, dict)
    return facts


def test_a_flag_beats_the_environment_which_beats_the_config_file_which_beats_the_default(
    run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    assert effective(run)["effective"] == 8
    config.write_text("batch-size: 16\nmodel: tiny\nthreshold: 0.7\n")
    assert effective(run, "--config", str(config)) == {
        "prompt": [],
        "batch_size": 16,
        "threshold": 0.7,
        "until_empty": False,
        "effective": 16,
        "model": "tiny",
    }
    monkeypatch.setenv("SAM3_BATCH_SIZE", "32")
    monkeypatch.setenv("SAM3_MODEL", "other/model")
    facts = effective(run, "--config", str(config))
    assert (facts["effective"], facts["model"], facts["threshold"]) == (32, "other/model", 0.7)
    assert effective(run, "--config", str(config), "--batch-size", "64")["effective"] == 64


def test_the_config_file_may_be_named_by_a_variable(
    run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("batch_size: 16")
    monkeypatch.setenv("SAM3_CONFIG", str(config))
    assert effective(run)["effective"] == 16


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("prompt: [person, red car]", ["person", "red car"]),
        ("prompt:\n  - person\n", ["person"]),
        ("prompt: red car", ["red car"]),
    ],
)
def test_prompts_in_a_config_file_may_be_a_list_or_one_text(
    run: Runner, tmp_path: Path, text: str, prompts: list[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    assert effective(run, "--config", str(config))["prompt"] == prompts


def test_a_prompt_variable_keeps_its_blanks_and_is_split_at_bars(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_PROMPT", "red car")
    assert effective(run)["prompt"] == ["red car"]
    monkeypatch.setenv("SAM3_PROMPT", "red car|person in a hat")
    assert effective(run)["prompt"] == ["red car", "person in a hat"]
    assert effective(run, "--prompt", "dog")["prompt"] == ["dog"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchsize: 4", "unknown key batchsize; did you mean batch_size?"),
        ("qqqq: 4", "unknown key qqqq"),
        ("- person", "expected keys and values"),
        ("person", "expected keys and values"),
        ("a: [", "run.yaml:1: not a readable YAML file"),
        ("gpus: cpu\nbatch_size: 4: 5", "run.yaml:2: not a readable YAML file: mapping values are not allowed here"),
        ("gpus: cpu\nbatch_size\n", "run.yaml:3: not a readable YAML file: could not find expected ':'"),
        ("batch_size: many", "Invalid value for '--batch-size': 'many' is not a valid integer range"),
        ("batch_size: 4.5", "Invalid value for '--batch-size': '4.5' is not a valid integer range"),
        ("batch_size: yes", "Invalid value for '--batch-size': 'true' is not a valid integer range"),
        ("batch_size: [4]", "run.yaml: batch_size: give one value, not a list"),
        ("broker_url: {redis: canary}", "run.yaml: broker_url: give one value, not a list"),
        ("until_empty: [yes]", "run.yaml: until_empty: give one value, not a list"),
        ("until_empty: 7", "Invalid value for '--until-empty': '7' is not a valid boolean"),
        ("threshold: .nan.", "Invalid value for '--threshold': '.nan.' is not a valid float"),
        ("prompt: [person, null]", "run.yaml: prompt: give texts, such as [person, red car]"),
        ("prompt: {person: 1}", "run.yaml: prompt: give texts, such as [person, red car]"),
        ("prompt: person\nprompt: dog", "run.yaml:2: not a readable YAML file: a key comes twice"),
        ("prompt: " + 2000 * "[" + 2000 * "]", "run.yaml: not a readable YAML file: too deeply nested"),
        ('"a\\nb\\x1b[2J": 4', "unknown key a\\nb\\x1b[2J"),
        ("!!python/object/apply:os.system [canary]", "run.yaml:1: not a readable YAML file\n"),
    ],
)
def test_a_wrong_config_file_is_one_line_that_says_what_to_change(
    run: Runner, tmp_path: Path, text: str, said: str
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    ended = run(probe, "--config", str(config))
    assert ended.code == 2
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_config_file_in_another_encoding_or_that_is_not_there_is_one_line(run: Runner, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    ended = run(probe, "--config", str(config))
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    config.write_bytes(b"\xff\xfe\x00prompt")
    ended = run(probe, "--config", str(config))
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "run.yaml" in ended.stderr


@pytest.mark.parametrize(
    "text",
    [
        "broker_url: redis://:canary@broker: {",
        "broker_url: *canary",
        "broker_url: !canary x",
        'broker_url: "\\canary"',
        "canary: &canary x\nb: &canary y",
        "broker_url: @canary",
        "broker_url: [redis://:canary@broker",
        "%canary",
    ],
)
def test_a_broken_config_file_is_named_without_a_word_of_what_it_holds(run: Runner, tmp_path: Path, text: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    ended = run(probe, "--config", str(config))
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert f"{config}:" in ended.stderr
    assert "canary" not in ended.stderr
    assert "@" not in ended.stderr


def test_a_config_file_that_would_never_answer_or_never_end_is_refused(run: Runner, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        assert run(probe, "--config", str(path)) == Ended(
            2, "", f"sam3-probe: error: {path}: is no regular file; give a YAML file\n"
        )


def test_values_of_a_config_file_count_as_if_they_had_been_typed(run: Runner, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("until_empty: yes\nthreshold: 1\nbatch_size: null\nprompt:\nmodel: 7\n")
    facts = effective(run, "--config", str(config))
    assert (facts["until_empty"], facts["threshold"], facts["batch_size"]) == (True, 1.0, None)
    assert (facts["prompt"], facts["model"]) == ([], "7")


def test_a_date_that_does_not_exist_is_no_yaml(run: Runner, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("run: 2024-99-99")
    assert run(probe, "--config", str(config)).stderr == f"sam3-probe: error: {config}: not a readable YAML file\n"


def test_one_config_file_serves_all_commands(run: Runner, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("chunk-size: 64\nmask_rule: meta\ngpus: cpu\nbatch-size: 4\nlimit: [not, ours]\n")
    assert effective(run, "--config", str(config))["effective"] == 4


def test_an_empty_variable_counts_as_not_set(run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: tiny\nbatch_size: 16\n")
    for name in ("SAM3_MODEL", "SAM3_BATCH_SIZE", "SAM3_BROKER_URL", "SAM3_STATE_DIR"):
        monkeypatch.setenv(name, "")
    facts = effective(run, "--config", str(tmp_path / "run.yaml"))
    assert (facts["model"], facts["effective"]) == ("tiny", 16)


def test_an_unknown_variable_is_a_warning_with_a_suggestion_and_no_error(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAM3_BATCHSIZE", "4")
    monkeypatch.setenv("SAM3_CHUNK_SIZE", "64")  # another command's flag
    monkeypatch.setenv("SAM3_BROKER_PORT_6379_TCP", "tcp://10.0.0.1:6379")
    ended = run(probe)
    assert ended.code == 0
    assert ended.stderr == "warning: unknown setting SAM3_BATCHSIZE; did you mean SAM3_BATCH_SIZE?\n"


def test_a_linked_service_called_sam3_sets_no_flag(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    @base.command("sam3-probe")
    @click.option("--port", type=int, default=5555)
    def command(port: int) -> None:
        click.echo(port)

    monkeypatch.setenv("SAM3_PORT", "tcp://10.0.0.1:6379")
    assert run(command) == Ended(0, "5555\n", "")
    monkeypatch.setenv("SAM3_PORT", "7777")
    assert run(command).stdout == "7777\n"


def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    @base.command("sam3-probe")
    def command() -> None:
        opening.open_database("postgresql://sam3:canary@127.0.0.1:1/sam3?connect_timeout=2")

    ended = run(command)
    assert ended.code == 3
    assert "127.0.0.1" in ended.stderr
    assert "canary" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_enqueue_without_its_csv_is_one_line(run: Runner) -> None:
    ended = run(enqueue, "--prompt", "person")
    assert ended.code == 2
    assert ended.stderr.count("\n") == 1
    assert "--csv" in ended.stderr


def test_a_count_reads_as_a_person_would_write_it() -> None:
    assert base.counted(1, "image") == "1 image"
    assert base.counted(12_000, "image") == "12,000 images"
    assert base.counted(2, "batch", "batches") == "2 batches"


@pytest.mark.parametrize("end", [b"", b"x" * 100_000], ids=["told at the end", "told at once"])
def test_output_on_a_full_disk_is_one_line(run: Runner, monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    @base.command("sam3-probe")
    def command() -> None:
        sys.stdout.buffer.write(b"some data")
        if end:
            click.echo(end)

    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        ended = run(command)

    assert ended.code == 2
    assert ended.stderr == (
        "sam3-probe: error: cannot write standard output: No space left on device; "
        "print to another place or make room there\n"
    )


def test_a_command_without_standard_output_ends_as_usual(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert run(ending(1)).code == 1


def test_lines_that_do_not_fit_on_a_disk_do_not_end_the_work(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    @base.command("sam3-probe")
    def command() -> int:
        base.say("on it")
        return 0

    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert run(command).code == 0
