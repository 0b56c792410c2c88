"""The table of what a chunk may become, which the documents show."""

import re

from db.transitions import Transition
from tests.db import door

TABLE = re.compile("<!-- chunk states: begin -->(.*)<!-- chunk states: end -->", re.DOTALL)


def documented() -> list[tuple[str, ...]]:
    """The rows of the one table of chunk states in docs/: from, to, who, when."""
    [table] = [found[1] for page in (door.PROJECT / "docs").glob("*.md") if (found := TABLE.search(page.read_text()))]
    rows = [[cell.strip() for cell in line.strip(" |").split(" | ")] for line in table.strip().splitlines()]
    return [(*(cell.replace("`", "") for cell in row[:3]), row[3]) for row in rows[2:]]


def test_the_documents_show_each_transition_and_no_other() -> None:
    told = [
        (", ".join(one.before) or "-", one.after.value, ", ".join(one.who), one.rule)  # in the same order, too
        for one in Transition
    ]
    assert documented() == told
