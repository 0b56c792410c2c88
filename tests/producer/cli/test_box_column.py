"""`--box-column` as it is typed: what is recorded, what an edit computes again, and what does not go with boxes."""

from pathlib import Path

import pytest
from sqlalchemy import select

from db.models import Run
from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export
from producer.cli.retry import main as retry
from tests.db import scenario
from tests.producer.cli.conftest import Shell

ENQUEUE = ("--csv", "faces.csv", "--box-column", "boxes", "--no-check")
HEADER, ONE, TWO = (
    "path,boxes,words",
    '"[[1, 2, 3, 4]]"',
    '"{""positive"": [[1, 2, 3, 4]], ""negative"": [[5, 6, 7, 8]]}"',
)


def write(*rows: str) -> None:
    Path("faces.csv").write_text("\n".join([HEADER, *rows]) + "\n")


@pytest.fixture
def rows(shell: Shell) -> Shell:
    write(f"a.jpg,{ONE},", f"b.jpg,{TWO},cat", "c.jpg,,cat")
    return shell


def asked(
    shell: Shell, chunk_id: int
) -> dict[str, tuple[list[str], tuple[tuple[float, float, float, float, bool], ...]]]:
    """Prompts and boxes of each image of a chunk, all of which then find something."""
    held = scenario.claim(shell.sessions, 1, chunk_id)
    texts = scenario.prompts(shell.sessions, 1)
    scenario.commit_all(shell.sessions, held, 0.9)
    return {image.path: ([texts[id] for id in image.prompt_ids], image.boxes) for image in held.images}


@pytest.mark.usefixtures("broker")
def test_each_row_has_its_boxes_with_a_text_or_alone_and_an_edited_box_computes_its_image_alone(rows: Shell) -> None:
    given = (*ENQUEUE, "--prompt-column", "words")
    rows(enqueue, *given)
    scenario.worker(rows.sessions)
    box, not_box = (1.0, 2.0, 3.0, 4.0, True), (5.0, 6.0, 7.0, 8.0, False)
    assert asked(rows, 1) == {"a.jpg": (["visual"], (box,)), "b.jpg": (["cat"], (box, not_box)), "c.jpg": (["cat"], ())}

    write(f"a.jpg,{ONE},", f"b.jpg,{ONE},cat", "c.jpg,,cat")
    assert "1 new, 1 no longer in the CSV" in rows(enqueue, *given).out
    assert asked(rows, 2) == {"b.jpg": (["cat"], (box,))}

    exported = rows(export, "faces", "--format", "csv", "-o", "out.csv")
    assert exported is not None
    assert [line.rpartition(",segmented")[0] for line in Path("out.csv").read_text().splitlines()[1:]] == [
        f"a.jpg,{ONE},",
        f"b.jpg,{ONE},cat",
        "c.jpg,,cat",
    ]
    other = rows(enqueue, *given[:2], "--prompt-column", "words", "--no-check", code=2).error
    assert "run faces has results with other settings: box-column boxes there, none here" in other


def test_a_dry_run_names_the_column_and_the_rows_whose_boxes_are_wrong(rows: Shell) -> None:
    write(f"a.jpg,{ONE},", 'b.jpg,"[[3, 2, 1, 4]]",', "c.jpg,,")
    told = rows(enqueue, *ENQUEUE, "--dry-run", code=1)
    assert "  box column: boxes" in told.out
    bad, nothing = told.err.splitlines()
    assert bad.startswith("  rejected: faces.csv:3: the box 3, 2, 1, 4 has no area; write x1, y1, x2, y2 with x1 below")
    assert nothing == "  rejected: faces.csv:4: no boxes in column 'boxes'; write one, or give --prompt"
    assert rows(enqueue, *ENQUEUE, "--dry-run", "--json", code=1).json["box_column"] == "boxes"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tile", "1024"), "--box-column and --tile: boxes belong to whole images; give one of them"),
        (("--model", "a/boxes+b/masks"), "--box-column: a/boxes+b/masks takes no boxes; a SAM3 does, such as --model"),
        (
            ("--model", "grounding-dino-sam2"),
            "--box-column: IDEA-Research/grounding-dino-tiny+facebook/sam2.1-hiera-small takes no boxes; a SAM3 does",
        ),
        (("--box-column", "box"), "faces.csv: no column 'box'; columns found: 'path', 'boxes', 'words'; --box-column"),
    ],
)
def test_what_does_not_go_with_boxes_is_refused_before_anything_is_recorded(
    rows: Shell, flags: tuple[str, ...], said: str
) -> None:
    assert said in rows(enqueue, *ENQUEUE, *flags, code=2).error
    assert not rows.sessions().execute(select(Run.id)).all()


@pytest.mark.usefixtures("broker")
def test_images_with_boxes_are_not_tried_again_in_tiles(rows: Shell) -> None:
    rows(enqueue, *ENQUEUE, "--prompt", "cat")
    for flags in ((), ("--capped",)):
        error = rows(retry, "faces", *flags, "--tile", "1024", code=2).error
        assert error.endswith("run faces has boxes, which belong to whole images; leave --tile out")
