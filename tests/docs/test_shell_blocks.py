"""Every shell block of our pages is typed as it stands, with the bundled model and the bundled broker.

A block that cannot be run here says why in the line before it: `<!-- not run: needs a GPU -->`. A command that goes on
until Ctrl-C stands alone behind `<!-- run: stays open -->`; it has a terminal of its own to the end of the page.
"""

import shlex
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks, name
from tests.terminals import Background, Terminal, wait_until
from workers.fleet.valkey import free_port
from workers.tiny.demo import write_demo

LANGUAGES = {"sh", "text", "python"}  # a shell block is `sh`, so that none is overlooked
OPEN, NOT_RUN = "run: stays open", "not run: "
INTERRUPTED = (0, 130)  # of a command that was ended by Ctrl-C
SECONDS = 300  # for one block, on a busy machine: each of its commands starts a Python, some load torch

# Pages that go on in the folder of another one, with its runs and its open terminals.
CONTINUED = {"docs/operations.md": "README.md"}
# Whose commands are the scripts that pip installed, as a reader starts them; those of other pages are quick starts.
REAL = "README.md"


def is_run(block: Block) -> bool:
    return block.language == "sh" and not block.comment.startswith(NOT_RUN)


STORIES = [page for page in PAGES if name(page) not in CONTINUED and any(map(is_run, blocks(page)))]


@pytest.fixture
def reader(terminal: Terminal) -> Terminal:
    """Somebody with a few pictures, no GPU, no licence for the weights, and nothing set that the pages do not name."""
    here = terminal
    del here.environment["SAM3_SEGMENTER"], here.environment["SAM3_STATE_DIR"]
    here.environment |= {"HOME": str(here.home.parent), "XDG_STATE_HOME": str(here.home.parent / "state")}
    here.environment |= {"SAM3_MODEL": "tiny", "SAM3_GPUS": "cpu"}
    write_demo(here.home / "photos", count=4, seed=3)
    pictures = sorted(path.name for path in (here.home / "photos").iterdir() if path.suffix != ".json")
    (here.home / "images.csv").write_text("image_path\n" + "".join(f"photos/{picture}\n" for picture in pictures))
    return here


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_each_block_names_its_language_and_a_shell_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: write ```sh, ```text or ```python"
        if block.language == "sh":
            has_reason = block.comment.startswith(NOT_RUN) and len(block.comment) > len(NOT_RUN)
            assert block.comment in ("", OPEN) or has_reason, (
                f"{block.place}: {block.comment!r} is neither '{OPEN}' nor '{NOT_RUN}REASON'"
            )
        else:
            typed = [line for line in block.text.splitlines() if line.startswith(("$ ", "sam3", "pip ", "make "))]
            assert not typed, f"{block.place}: {typed[0]!r} looks like a command; write ```sh"


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", STORIES, ids=name)
def test_the_shell_blocks_of_a_page_work_in_their_order(page: Path, reader: Terminal) -> None:
    chapters = [page, *(ROOT / later for later, earlier in CONTINUED.items() if earlier == name(page))]
    opened: list[Background] = []
    quick = reader.forerunner
    for block in (block for chapter in chapters for block in blocks(chapter) if is_run(block)):
        reader.forerunner = None if block.place.startswith(REAL) else quick
        if block.comment == OPEN:
            opened.append(open_terminal(reader, block))
            continue
        try:
            reader.type(f"set -e\n{block.text}", seconds=SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{block.place}: {error}") from None
    for one in reversed(opened):
        one.interrupt()
        said = one.wait(code=None)
        assert one.process.returncode in INTERRUPTED, said
        assert "Traceback" not in said


def open_terminal(reader: Terminal, block: Block) -> Background:
    """Start the block's one command in the background, on a port that is free, and wait for its first line."""
    [line] = block.text.splitlines()
    started = reader.start(*shlex.split(line, comments=True), SAM3_PORT=str(free_port()))
    wait_until(lambda: started.output() or started.process.poll() is not None, f"{block.place}: {line}", SECONDS)
    assert started.process.poll() is None, f"{block.place}: {line} ended:\n{started.output()}"
    return started


def test_a_page_is_read_as_blocks_with_their_place_language_and_comment(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- not run: why -->\n```sh\nsam3-run\n```\n\n```text\nx\n```\n")
    first, second = blocks(page)
    assert (first.line, first.language, first.comment, first.text) == (4, "sh", "not run: why", "sam3-run")
    assert (second.line, second.language, second.comment, second.text) == (8, "text", "", "x")
