"""Reads the YAML file of `--config` into values like those of flags. Knows the flags, and opens no other file."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from workers.cli.flags import all_flags
from workers.errors import UsageError
from workers.settings import Settings

# Keys of run.yaml that are no settings: the slugs of prompts, and the first place of an input that was moved.
SLUGS, FIRST_SOURCE = "slugs", "first_source"


def read_config(path: Path, params: Sequence[click.Parameter]) -> dict[str, Any]:
    """The file's values by the names of the flags `params` of a command. Raises `UsageError` for a wrong file."""
    keys = _load_yaml(path)
    if not isinstance(keys, dict | None):
        raise UsageError(f"{path}: expected keys and values, such as 'prompt: [person]'")
    own = {parameter.name: parameter for parameter in params}
    spelled = {_as_key(flag): parameter.name or "" for parameter in params for flag in parameter.opts}
    named = {
        spelled.get(_as_key(str(key)), _as_key(str(key))): value
        for key, value in (keys or {}).items()
        if key not in (SLUGS, FIRST_SOURCE)
    }
    for key, value in named.items():
        if key in own or key in Settings.model_fields:
            named[key] = _as_typed(f"{path}: {key}", value, multiple=getattr(own.get(key), "multiple", False))
        elif key not in (known := all_flags()):
            close = difflib.get_close_matches(key, known, n=1)
            raise UsageError(f"{path}: unknown key {key}" + (f"; did you mean {close[0]}?" if close else ""))
    return named


def _as_key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _as_typed(where: str, value: Any, *, multiple: bool) -> Any:
    """A value of the config file as text, like that of a flag on a command line, so that the flag checks it."""
    if multiple:
        values = value if isinstance(value, list) else [value]  # `prompt: person` is one prompt
        if values != [None] and any(isinstance(item, list | dict | None) for item in values):
            raise UsageError(f"{where}: give texts, such as [person, red car]")
        return [] if values == [None] else values  # not as text, so that the flag can refuse yes without quotes
    if isinstance(value, list | dict):
        raise UsageError(f"{where}: give one value, not a list")
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice: PyYAML would ignore the first one without an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(problem="a key comes twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _load_yaml(path: Path) -> Any:
    if not path.is_file():  # reading a pipe or a device may never end
        raise UsageError(f"{path}: is no regular file; give a YAML file")
    try:
        return yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UsageError(f"{path}: not a readable YAML file: too deeply nested") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date like 2024-99-99
        raise UsageError(_yaml_fault(path, error)) from None


def _yaml_fault(path: Path, error: Exception) -> str:
    """Say where and why the file is no YAML, without quoting its content, which may be a password."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f"{path}:{mark.line + 1}" if mark else f"{path}"
    # PyYAML quotes the file's content in single quotes. This one message has only a colon in them.
    cites = problem and "'" in problem and problem != "could not find expected ':'"
    return f"{place}: not a readable YAML file" + (f": {problem}" if problem and not cites else "")
