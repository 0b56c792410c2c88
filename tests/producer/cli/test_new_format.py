"""A new format is a module that declares `FORMAT` and a line in one table: here a plain list of what was found."""

import importlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import click
import pytest

from db.views.results import ExportedImage
from producer.cli import export
from producer.results.common import ExportRequest, Summary, TellRows, counting, found_in
from producer.results.format_names import MODULES
from producer.results.formats import Format
from tests.db.scenario import claim, commit, done, load, numbered
from tests.producer.cli.conftest import Shell

FIRST_LINE = "instances by image, from sam3-queue\n"


def write_counts(request: ExportRequest, images: Iterable[ExportedImage], tell: TellRows) -> Summary:
    """A line an image: how many instances, and its path."""
    rows = instances = 0
    with request.files.replacing(request.out) as temporary, temporary.open("w") as file:
        file.write(FIRST_LINE)
        for image in counting(images, tell):
            found = len(found_in(image))
            file.write(f"{found} {image.path}\n")
            rows, instances = rows + 1, instances + found
    return Summary(rows, instances, 1, request.out)


def is_ours(file: BinaryIO) -> bool:
    return file.readline() == FIRST_LINE.encode()


FORMAT = Format(write_counts, is_ours, ".txt")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[click.Command]:
    """`sam3-export` as it starts with the one line that a new format needs elsewhere."""
    with monkeypatch.context() as added:
        added.setitem(MODULES, "counts", __name__)
        yield importlib.reload(export).main
    importlib.reload(export)


@pytest.fixture(autouse=True)
def faces(shell: Shell) -> None:
    """Two images with scores of 0.9 and 0.6."""
    held = claim(shell.sessions, load(shell.sessions, numbered(2)))
    commit(shell.sessions, held, [done(held.images[0], 0.9, 0.6), done(held.images[1], 0.6)])


def test_it_is_written_told_and_written_again(shell: Shell, command: click.Command) -> None:
    given = ("faces", "--format", "counts", "-o", "counts.txt")
    assert shell(command, *given).err == "counts.txt: 2 images, 3 instances\n"
    assert (shell.home / "counts.txt").read_text() == f"{FIRST_LINE}2 000001.jpg\n1 000002.jpg\n"

    again = shell(command, *given, "--threshold", "0.8", "--json").json
    assert (again["format"], again["images"], again["instances"]) == ("counts", 2, 1)
    assert shell(command, "faces", "--format", "csv", "-o", "counts.txt").err.startswith("counts.txt: 2 images")


def test_it_goes_to_standard_output_and_a_foreign_file_is_kept(shell: Shell, command: click.Command) -> None:
    assert shell(command, "faces", "--format", "counts", "-o", "-").out.startswith(FIRST_LINE)
    (shell.home / "mine.txt").write_text("my notes\n")
    refused = shell(command, "faces", "--format", "counts", "-o", "mine.txt", code=2).error
    assert "mine.txt was not made by an export of ours, so it is not replaced" in refused


def test_flags_of_other_formats_are_refused_and_help_names_it(shell: Shell, command: click.Command) -> None:
    refused = shell(command, "faces", "--format", "counts", "-o", "x", "--masks", "m", code=2).error
    assert "--masks m: only --format csv has columns for masks" in refused
    refused = shell(command, "faces", "--format", "png", "-o", "-", code=2).error
    assert "or counts without --json" in refused
    assert "|counts]" in shell(command, "--help").out
