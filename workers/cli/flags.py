"""The flags of all commands that are installed: which names a variable or a key may have. Declares none itself."""

import importlib.metadata

import click

from workers.settings import Settings

NOT_OF_A_COMMAND = {"valkey_binary"}  # read by the bundled broker alone


def all_commands() -> dict[str, click.Command]:
    """Every installed command by its name, such as sam3-run; loading them takes its time."""
    scripts = importlib.metadata.entry_points(group="console_scripts")
    return {script.name: script.load() for script in sorted(scripts) if script.name.startswith("sam3-")}


def all_flags() -> set[str]:
    """Names of the flags of every command, and of the settings."""
    flags = {parameter.name or "" for command in all_commands().values() for parameter in command.params}
    return flags | Settings.model_fields.keys() | NOT_OF_A_COMMAND
