"""Who writes rows of chunks: looks at each statement as it is sent, and at the source. Judges nothing else."""

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import Engine, event

PROJECT = Path(__file__).parents[2]
DOOR = PROJECT / "db" / "chunks.py"
SHIPPED = ("db", "producer", "workers", "sam3_queue")
WRITES = re.compile(r'\s*(INSERT INTO|UPDATE|COPY) "?chunk"?\b', re.IGNORECASE)


@contextmanager
def watched() -> Iterator[list[str]]:
    """A list that grows with each statement that writes rows of chunks and comes from elsewhere in what we ship."""
    strangers: list[str] = []

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if WRITES.match(statement) and (stranger := _stranger(sys._getframe(1))):
            strangers.append(f"{stranger}: {statement[:200]}")

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield strangers
    finally:
        event.remove(Engine, "before_cursor_execute", look)


def _stranger(frame: FrameType | None) -> str | None:
    """Where the statement was made, if that is in what we ship and not the door. Tests may write what they like."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PROJECT / "tests") or path == DOOR or "migrations" in path.parts:
            return None
        if any(path.is_relative_to(PROJECT / part) for part in SHIPPED) and path.name not in ("bulk.py", "session.py"):
            return f"{path.relative_to(PROJECT)}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def sources() -> Iterator[Path]:
    """The modules of what we ship, without the door; migrations are of their own time."""
    for part in SHIPPED:
        for path in sorted((PROJECT / part).rglob("*.py")):
            if path != DOOR and "migrations" not in path.parts:
                yield path


def writes_in(source: str) -> list[str]:
    """The lines of a module that insert or update chunks, or could: as ORM objects, by their table, in plain SQL."""
    found = ((node, _write(node)) for node in ast.walk(ast.parse(source)))
    return [f"{node.lineno}: {what}" for node, what in found if what and isinstance(node, ast.expr)]


def _write(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id="update" | "insert" as verb), args=[table, *_]) if _is_chunks(table):
            return f"{verb} of chunks"
        case ast.Call(func=ast.Name(id="Chunk") | ast.Attribute(attr="Chunk")):
            return "a chunk made as an ORM object"
        case ast.Call(func=ast.Name(id="select") | ast.Attribute(attr="get" | "merge"), args=[table, *_]) if _is_chunks(
            table
        ):
            return "a chunk read as an ORM object, whose attributes could be set"
        case ast.Subscript(slice=ast.Constant(value="chunk"), value=ast.Attribute(attr="tables")):
            return "the table of chunks"
        case ast.Constant(value=str(text)) if WRITES.match(text):
            return "plain SQL"
    return None


def _is_chunks(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).split(".")[-1] in ("Chunk", "CHUNKS")
