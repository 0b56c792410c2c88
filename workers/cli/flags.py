"""Collects the flags of all installed commands: the names that variables and keys may have. Declares no flag itself."""

import importlib.metadata

import click

from workers.settings import Settings

NOT_OF_A_COMMAND = {"valkey_binary"}  # a variable that is no flag: only the bundled broker reads it


def all_commands() -> dict[str, click.Command]:
    """All installed commands by name, such as sam3-run. Importing them takes about a second."""
    scripts = importlib.metadata.entry_points(group="console_scripts")
    return {script.name: script.load() for script in sorted(scripts) if script.name.startswith("sam3-")}


def all_flags() -> set[str]:
    """The names of all flags of all commands, and of all settings."""
    flags = {parameter.name or "" for command in all_commands().values() for parameter in command.params}
    return flags | Settings.model_fields.keys() | NOT_OF_A_COMMAND
