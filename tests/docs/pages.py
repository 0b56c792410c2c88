"""Reads our Markdown pages: their fenced blocks, words in code, links and headings. Runs and judges nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))

_COMMENT = re.compile(r"<!-- (.*) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block, and the comment in the line before it."""

    page: Path
    line: int  # of its opening fence, from 1
    language: str
    comment: str
    text: str

    @property
    def place(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page. Fails for one that is not closed."""
    found: list[Block] = []
    lines = page.read_text().splitlines()
    numbers = iter(range(len(lines)))
    for start in numbers:
        if not lines[start].startswith("```"):
            continue
        end = next(number for number in numbers if lines[number] == "```")
        comment = _COMMENT.fullmatch(lines[start - 1]) if start else None
        text = "\n".join(lines[start + 1 : end])
        found.append(Block(page, start + 1, lines[start][3:], comment[1] if comment else "", text))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks and comments."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def code_spans(page: Path) -> Iterator[str]:
    """What stands between backticks in the page's prose."""
    yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page)))


def links(page: Path) -> list[str]:
    """Where the page's links and pictures lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """How links name the page's headings, as GitHub makes it: small letters, dashes for blanks, no other marks."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
