"""A command that tells what it was given, and a runner of commands as programs in this process."""

import json
from dataclasses import dataclass

import click
import pytest

from producer.cli.flags.param_types import Phrase
from workers.cli import base


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


def effective(run: Runner, *args: str) -> dict[str, object]:
    ended = run(probe, *args)
    assert ended.code == 0, ended.stderr
    facts = json.loads(ended.stdout)
    assert isinstance(facts, dict)
    return facts
