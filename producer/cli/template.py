"""Writes all settings as text: a commented YAML file, and the variables. Knows `Settings`; commands are given to it."""

import json
import textwrap
from collections.abc import Iterable
from typing import Any

import click

from workers.machine.variables import PREFIX
from workers.settings import Settings

NO_KEYS = ("config", "version", "yes")  # flags that a file cannot set; YAML reads the key `yes` as true
SET_BY_US = ("identity", "node", "device", "cores")  # settings that the launcher chooses for each node


def template(commands: Iterable[click.Command]) -> str:
    """A YAML file in which every line is a comment. The user removes the single # from lines to set."""
    found = _keys(commands)
    keys = {name: entry for name, entry in found.items() if name not in NO_KEYS}
    lines = ["## Every key with its default, for --config FILE; a flag and a variable count more than the file.", ""]
    for name, (sentence, default) in sorted(keys.items()):
        lines += [
            *textwrap.wrap(sentence, 100, initial_indent="## ", subsequent_indent="## "),
            f"# {_yaml(name, default)}",
        ]
    lines += ["", "## The same as variables of the environment; an empty one counts as not set:"]
    width = max(len(name) for name in keys) + len(PREFIX)
    lines += [f"## {PREFIX + name.upper():<{width}}  {sentence}" for name, (sentence, _) in sorted(found.items())]
    return "\n".join(lines)


def _keys(commands: Iterable[click.Command]) -> dict[str, tuple[str, Any]]:
    """Name of a setting -> its meaning and its default."""
    found: dict[str, tuple[str, Any]] = {"valkey_binary": ("The Valkey or Redis server that is started here.", None)}
    for name, field in Settings.model_fields.items():
        if name not in SET_BY_US:
            found[name] = (field.description or "", None if field.default_factory else field.default)
    for command in commands:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name:
                known, default = found.get(parameter.name, ("", None)), parameter.to_info_dict()["default"]
                if None not in (known[1], default) and known[1] != default:  # such as --port: each command has another
                    default = None
                elif default is None:
                    default = known[1]
                found[parameter.name] = (parameter.help or known[0], default)
    return found


def _yaml(name: str, default: Any) -> str:
    value = list(default) if isinstance(default, tuple) else default
    return f"{name}:" if value is None else f"{name}: {json.dumps(value)}"  # JSON is YAML
