"""What our modules say of themselves and of each other is true, as far as a program can tell."""

import ast
import re
import sys
from functools import cache

from tests.docs.names import PACKAGES, is_defined
from tests.docs.pages import ROOT

DOTTED = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`")  # a full name in a comment or a docstring
ALONE = "Standard library only"  # so says the head of a module that is imported before all others, or by them all


@cache
def modules() -> dict[str, str]:
    """The source of each of our modules, by its path."""
    packages = [name for name in PACKAGES if name != "tests"]
    paths = [ROOT / "sam3_start.py", *(path for name in packages for path in (ROOT / name).rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths}


def says_alone(module: ast.Module) -> bool:
    return ALONE in (ast.get_docstring(module) or "")


def strangers(module: ast.Module) -> set[str]:
    """The packages outside of the standard library that the module imports, also inside of functions."""
    names = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(module) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def test_a_module_that_says_so_needs_the_standard_library_only() -> None:
    alone = {
        path: module for path, text in modules().items() if ALONE in text and says_alone(module := ast.parse(text))
    }
    assert {"sam3_start.py", "workers/fleet/die_with_parent.py", "db/values.py"} <= alone.keys()
    assert {path: found for path, module in alone.items() if (found := strangers(module))} == {}


def test_an_import_of_something_else_is_seen() -> None:
    assert strangers(ast.parse("import os\ndef f() -> None:\n    from click import echo")) == {"click"}


def test_what_comments_and_docstrings_name_in_full_is_there() -> None:
    named = {(path, dotted) for path, text in modules().items() for dotted in DOTTED.findall(text)}
    assert len(named) > 50
    assert [f"{path}: {dotted}" for path, dotted in sorted(named) if not is_defined(dotted)] == []
