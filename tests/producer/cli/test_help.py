"""Every command explains itself, quickly: none loads what only its work needs."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

COMMANDS = sorted(
    script.name for script in importlib.metadata.distribution("sam3-queue").entry_points if script.name[:5] == "sam3-"
)
HEAVY = {
    *("torch", "torchvision", "transformers", "numpy", "PIL", "workers.tasks", "workers.inference"),
    *("sqlalchemy", "alembic", "celery", "kombu", "redis", "pydantic", "platformdirs", "rich", "yaml", "filelock"),
}
ASK = """
import contextlib, importlib.metadata, io, json, sys
[script] = importlib.metadata.entry_points(group="console_scripts", name=sys.argv[1])
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    try:
        script.load().main(["--help"], script.name)
    except SystemExit as end:
        code = end.code
print(json.dumps({"code": code, "help": printed.getvalue(), "modules": list(sys.modules)}))
"""


def test_all_eleven_commands_are_installed() -> None:
    names = "broker cancel db delete enqueue export flower retry run status worker"
    assert [f"sam3-{name}" for name in names.split()] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_given_without_what_only_the_work_needs(command: str) -> None:
    asked = subprocess.run([sys.executable, "-c", ASK, command], capture_output=True, text=True, check=True)
    answer = json.loads(asked.stdout)

    assert (answer["code"], asked.stderr) == (0, "")
    assert answer["help"].startswith(f"Usage: {command} [OPTIONS]")
    assert not HEAVY & set(answer["modules"])
