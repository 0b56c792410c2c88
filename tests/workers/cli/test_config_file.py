"""Where the value of a flag comes from: the command line, the environment, the file of --config, or its default."""

import os
from pathlib import Path

import click
import pytest

from tests.workers.cli.conftest import Ended, Runner, effective, probe
from workers.cli import base

pytestmark = pytest.mark.usefixtures("no_settings_of_this_machine")


def test_a_wrong_setting_in_the_environment_names_the_variable(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAM3_LEASE_SECONDS", "soon")
    ended = run(probe)
    assert ended.code == 2
    assert ended.stderr.startswith("sam3-probe: error: SAM3_LEASE_SECONDS: ")
    assert ended.stderr.count("\n") == 1


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
