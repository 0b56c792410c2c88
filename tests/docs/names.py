"""What pages may name: modules and what they define, commands with their flags, variables. Judges no page."""

import ast
import tomllib
from functools import cache

import click

from producer.cli.main import MODULES, main
from tests.docs.pages import ROOT
from workers.machine.variables import PREFIX
from workers.settings import Settings

PACKAGES = ("db", "producer", "workers", "sam3_queue", "tests", "benchmarks")
FOLDERS = (*PACKAGES, "docs", "deploy", ".ci")


@cache
def programs() -> set[str]:
    """`sam3`, `sam3-run` and the others that an installation has."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])


@cache
def flags() -> dict[str, set[str]]:
    """The flags of each program."""
    context = click.Context(main)
    commands = {f"sam3-{name}": main.get_command(context, name) for name in MODULES}
    found = {name: _flags(command) for name, command in commands.items() if command is not None}
    return found | {"sam3": _flags(main)}


def _flags(command: click.Command) -> set[str]:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)} | {"-h", "--help"}


@cache
def variables() -> set[str]:
    """Every `SAM3_*` variable: settings, flags, and those that only tests read."""
    of_flags = {flag[2:] for given in flags().values() for flag in given if flag.startswith("--")}
    names = {*Settings.model_fields, *of_flags, "valkey_binary", "require_netns", "test_pooler"}
    return {PREFIX + name.upper().replace("-", "_") for name in names}


def is_defined(dotted: str) -> bool:
    """Whether `db.models.Chunk.fence` is there: a package, a module, or something that a module or class defines.

    Modules are parsed, not imported: some would bring torch.
    """
    parts = dotted.split(".")
    place = ROOT
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if not parts:
        return place != ROOT
    module = place / f"{parts.pop(0)}.py"
    return module.is_file() and _holds(ast.parse(module.read_text()).body, parts)


def _holds(body: list[ast.stmt], parts: list[str]) -> bool:
    if not parts:
        return True
    for statement in body:
        if parts[0] in _names(statement):
            return _holds(getattr(statement, "body", []), parts[1:])
    return False


def _names(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []
