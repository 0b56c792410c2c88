"""`sam3` with subcommands, its completion and its template of all settings."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from producer.cli.main import ALONE, MODULES, main
from tests.db import scenario
from tests.producer.cli.conftest import Shell
from workers.settings import Settings

PROGRAM = [sys.executable, "-c", "import sys; sys.argv[0] = 'sam3'; from producer.cli.main import main; main()"]


def test_a_subcommand_is_the_program_of_that_name(shell: Shell) -> None:
    assert shell(main, "status").err == "no runs yet; begin with sam3-enqueue --csv FILE --prompt TEXT\n"
    assert shell(main, "status", "faces", code=4).error.startswith("sam3 status: error: no run called faces")
    assert shell(main, "status", "--no-such", code=2).error.endswith("see sam3 status --help")


def test_what_is_no_subcommand_is_one_line(shell: Shell) -> None:
    assert shell(main, "stauts", code=2).error.startswith("sam3: error: No such command 'stauts'")
    assert "enqueue" in shell(main).out


def test_variables_of_the_flags_are_those_of_the_other_name(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (shell.home / "a.csv").write_text("path\na.jpg\n")
    monkeypatch.setenv("SAM3_PROMPT", "red car")
    assert "red car" in shell(main, "enqueue", "--csv", "a.csv", "--dry-run").out


def test_the_template_is_a_config_file_also_with_every_line_in_force(shell: Shell) -> None:
    text = shell(main, "config").out
    assert yaml.safe_load(text) is None

    keys = text.partition("## The same as variables")[0]
    lines = [line.removeprefix("# ") for line in keys.splitlines() if re.match(r"# [a-z_]+:( |$)", line)]
    (shell.home / "all.yaml").write_text("\n".join(lines))
    (shell.home / "a.csv").write_text("path\na.jpg\n")
    again = shell(main, "enqueue", "--config", "all.yaml", "--csv", "a.csv", "--prompt", "cat", "--dry-run")
    assert again.out.startswith("would record run a: 1 image")

    named = set(yaml.safe_load("\n".join(lines)))
    assert {"prompt", "batch_size", "gpus", "broker_url", "max_failures"} <= named
    set_by_hand = Settings.model_fields.keys() - {"identity", "node", "device", "cores"}
    assert set_by_hand <= named
    assert all(f"## SAM3_{name.upper()} " in text for name in named)


def test_every_setting_has_a_sentence() -> None:
    for name in Settings.model_fields.keys() - {"identity", "node", "device", "cores"}:
        assert (Settings.model_fields[name].description or "").endswith("."), name


def complete(home: Path, words: str, program: str = "SAM3") -> list[str]:
    asked = subprocess.run(
        PROGRAM,
        env=os.environ
        | {f"_{program}_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stderr == ""
    return asked.stdout.split()


def test_a_shell_completes_commands_flags_and_names_of_runs(shell: Shell) -> None:
    shell.home.joinpath("faces.csv").write_text("path\na.jpg\n")
    database = Path(os.environ["SAM3_DATABASE_URL"].removeprefix("sqlite:///"))

    assert complete(shell.home, "sam3 ex") == ["plain,export"]
    assert "plain,--format" in complete(shell.home, "sam3 export --fo")
    assert complete(shell.home, "sam3 status fa") == ["dir,fa"]
    scenario.create(shell.sessions, "faces")
    assert complete(shell.home, "sam3 status fa") == ["plain,faces"]

    database.unlink()
    assert complete(shell.home, "sam3 status fa") == ["dir,fa"]
    assert not database.exists()


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_names_every_program(shell: Shell, kind: str) -> None:
    script = shell(main, "completion", kind).out
    for name in ("sam3", *(f"sam3-{name}" for name in MODULES if name not in ALONE)):
        assert re.search(rf"\b{name}\b", script)
    if shutil.which(kind):
        subprocess.run([kind, "-n", "-c", script], check=True)
