"""Each feature in the table of features names a test that exists."""

import ast
import re

import pytest

from tests.docs.pages import ROOT

TABLE = [line for line in (ROOT / "docs" / "features.md").read_text().splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("line", TABLE, ids=[line.split("|")[1].strip() for line in TABLE])
def test_the_test_that_shows_a_feature_is_there(line: str) -> None:
    named = re.fullmatch(r"\| .+ \| .+ \| `([^`]+\.py)::(test_\w+)` \|", line)
    assert named is not None, f"no test is named: {line}"
    path, test = named.groups()

    defined = ast.parse((ROOT / path).read_text()).body
    assert test in [one.name for one in defined if isinstance(one, ast.FunctionDef)]


def test_the_table_was_found() -> None:
    assert len(TABLE) > 10
