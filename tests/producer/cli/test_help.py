"""Every command explains itself, quickly: none loads what only its work needs."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from producer.cli.main import ALONE, MODULES, main

SCRIPTS = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = sorted(name for name in SCRIPTS if name[:5] == "sam3-")
HEAVY = {
    *("torch", "torchvision", "transformers", "numpy", "PIL"),
    *("workers.node.doorbell", "workers.inference.reading.images"),
    *("sqlalchemy", "alembic", "celery", "kombu", "redis", "pydantic", "platformdirs", "rich", "yaml", "filelock"),
}
ASK = """
import contextlib, importlib.metadata, io, json, sys
if sys.argv[1] in ("sam3", "sam3 config", "sam3 completion"):
    from producer.cli.main import main
    program, given = main, sys.argv[1].split()[1:]
else:
    script = importlib.metadata.EntryPoint(sys.argv[1], sys.argv[2], "console_scripts")
    program, given = script.load(), []
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    try:
        program.main([*given, "--help"], sys.argv[1].split()[0])
    except SystemExit as end:
        code = end.code
print(json.dumps({"code": code, "help": printed.getvalue(), "modules": list(sys.modules)}))
"""


def test_there_are_these_fourteen_commands() -> None:
    names = "broker cancel db delete enqueue export flower pause resume retry run set status worker"
    assert [f"sam3-{name}" for name in names.split()] == COMMANDS
    assert set(MODULES) == {*names.split(), *ALONE}


@pytest.mark.parametrize("command", [*COMMANDS, "sam3", "sam3 config", "sam3 completion"])
def test_help_is_given_without_what_only_the_work_needs(command: str) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", ASK, command, SCRIPTS.get(command, "")], capture_output=True, text=True, check=True
    )
    answer = json.loads(asked.stdout)

    assert (answer["code"], asked.stderr) == (0, "")
    assert answer["help"].startswith(f"Usage: {command} [OPTIONS]")
    assert not HEAVY & set(answer["modules"])


@pytest.mark.parametrize("name", MODULES)
def test_every_flag_has_a_sentence_and_the_default_is_shown(name: str) -> None:
    context = click.Context(main)
    command = main.get_command(context, name)
    assert isinstance(command, click.Command)
    for parameter in command.get_params(click.Context(command, **command.context_settings)):
        if isinstance(parameter, click.Option):
            help = parameter.help or ""
            assert len(help) > len("."), parameter.name
            assert help.endswith("."), parameter.name
