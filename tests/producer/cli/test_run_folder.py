"""What must not stand in the output folder of a sam3-run is told before anything is recorded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from db.migrate import upgrade
from db.session import connect, sqlite_url
from producer.cli.run import main as run
from tests.db.scenario import load, numbered
from tests.producer.cli.conftest import Shell

GIVEN = ("--prompt", "person", "--model", "any/model", "--gpus", "cpu")


@pytest.fixture
def photos(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one picture, as it seems, and elsewhere a file and a folder of somebody else."""
    monkeypatch.delenv("SAM3_STATE_DIR")
    monkeypatch.setenv("SAM3_SEGMENTER", "tests.fakes:FakeSegmenter")
    (shell.home / "photos").mkdir()
    (shell.home / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (shell.home / "theirs").mkdir()
    (shell.home / "theirs" / "file").write_text("theirs")
    (shell.home / "out").mkdir()
    return shell.home / "photos"


def test_a_results_csv_is_never_replaced_by_its_own_results(shell: Shell, photos: Path) -> None:
    source = shell.home / "out" / "results.csv"
    source.write_text(f"path\n{photos}/a.jpg\n")

    error = shell(run, source, "-o", "out", *GIVEN, code=2).error

    assert error == (
        "sam3: error: out/results.csv is the input of run results, so it is not replaced: "
        "choose another -o, or add --force to lose what it holds"
    )
    assert source.read_text() == f"path\n{photos}/a.jpg\n"
    assert list((shell.home / "out").iterdir()) == [source]


@pytest.mark.parametrize("name", ["results.csv", "preview.jpg", "run.yaml"])
def test_a_file_of_the_users_in_the_place_of_ours_is_told_first(shell: Shell, photos: Path, name: str) -> None:
    theirs = shell.home / "out" / name
    theirs.write_text("prompt: person\n")

    error = shell(run, photos, "-o", "out", *GIVEN, code=2).error

    assert error.startswith(f"sam3: error: out/{name} was not made by an export of ours, so it is not replaced")
    assert [(path.name, path.read_text()) for path in (shell.home / "out").iterdir()] == [(name, "prompt: person\n")]


def test_a_file_in_the_place_of_the_masks_is_told_first(shell: Shell, photos: Path) -> None:
    (shell.home / "out" / "masks").write_text("")
    assert "out/masks is a file: masks need a folder" in shell(run, photos, "-o", "out", *GIVEN, code=2).error


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("results.csv", "theirs/file"),
        ("preview.jpg", "theirs/new"),
        ("run.yaml", "theirs/file"),
        ("masks", "theirs"),
        (".sam3", "theirs"),
        (".sam3/sam3.db", "theirs/file"),
        (".sam3/logs", "theirs"),
    ],
)
def test_a_link_inside_the_folder_is_not_followed(shell: Shell, photos: Path, link: str, target: str) -> None:
    (shell.home / "out" / link).parent.mkdir(exist_ok=True)
    (shell.home / "out" / link).symlink_to(shell.home / target)

    for forced in ((), ("--force",)):
        error = shell(run, photos, "-o", "out", *GIVEN, *forced, code=2).error
        assert error == (
            f"sam3: error: out/{link} is a link to somewhere else: nothing is written through it; "
            "remove it, or choose another -o"
        )
    assert [(path.name, path.read_text()) for path in (shell.home / "theirs").iterdir()] == [("file", "theirs")]


def other_name(out: Path, photos: Path) -> None:
    (out / "run.yaml").write_text(f"source: {photos}\noutput: {out}\nrun: other\nprompt: [person]\nmodel: any/model\n")


def other_source(out: Path, photos: Path) -> None:
    theirs = photos.parent / "theirs"
    (out / "run.yaml").write_text(f"source: {theirs}\noutput: {out}\nrun: photos\nprompt: [person]\nmodel: any/model\n")


def killed_before_it_was_named(out: Path, photos: Path) -> None:
    (out / ".sam3").mkdir()
    sessions = connect(sqlite_url(out / ".sam3" / "sam3.db"))
    upgrade(sessions)
    load(sessions, numbered(1), name="other")
    sessions.kw["bind"].dispose()


@pytest.mark.parametrize("whose", [other_name, other_source, killed_before_it_was_named])
def test_the_folder_of_another_run_is_refused_with_the_command_that_works(
    shell: Shell, photos: Path, monkeypatch: pytest.MonkeyPatch, whose: Callable[[Path, Path], None]
) -> None:
    whose(shell.home / "out", photos)
    (shell.home / "out_2").mkdir()
    given = (str(photos), "-o", "out", *GIVEN)
    monkeypatch.setattr("sys.argv", ["sam3-run", *given])

    error = shell(run, *given, code=2).error

    assert error.startswith("sam3-run: error: -o out belongs to run ")
    assert error.endswith(
        "; a folder holds one run. "
        f"Use another: sam3-run {photos} -o out_3 --prompt person --model any/model --gpus cpu"
    )
    assert {path.name for path in (shell.home / "out").iterdir()} <= {"run.yaml", ".sam3"}
