"""What every command promises at its edge: exit codes, and one line for an error."""

import sys
from contextlib import suppress

import click
import pytest
from pydantic_core import SchemaValidator, core_schema

from db.refusals import DatabaseUnusable
from producer.cli.enqueue import main as enqueue
from tests.workers.cli.conftest import Ended, Runner, ending, failing, probe
from workers.cli import base, opening
from workers.errors import NoSuchRun, Unreachable, UsageError

pytestmark = pytest.mark.usefixtures("no_settings_of_this_machine")


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
