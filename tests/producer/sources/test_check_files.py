"""A root that is wrong is told before anything is recorded, with a cure that works when it is followed."""

import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from producer.sources.check_files import check_files
from producer.sources.source import ReadOptions
from producer.sources.text.csv_source import CsvSource
from workers.errors import UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with three images in photos/in."""
    home = tmp_path / "home"
    (home / "photos" / "in").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "3 x.jpg"):
        (home / "photos" / "in" / name).touch()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    return home


def csv_of(paths: Iterable[str], at: str = "images.csv") -> Path:
    csv = Path(at)
    csv.parent.mkdir(parents=True, exist_ok=True)
    csv.write_text("path\n" + "".join(f"{path}\n" for path in paths))
    return csv


def looked_at(csv: Path, root: Path | None = None) -> list[str]:
    """What is said; raises `UsageError`."""
    source = CsvSource(csv, ReadOptions(root=root))
    said: list[str] = []
    check_files(source, [path for _, path in source.survey().sample], said.append)
    return said


def refusal(csv: Path, root: Path | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        looked_at(csv, root)
    return str(refused.value)


def test_files_that_are_there_are_worth_no_word() -> None:
    assert looked_at(csv_of(["photos/in/1.jpg", "photos/in/2.jpg"])) == []
    assert looked_at(csv_of([f"{Path.cwd()}/photos/in/1.jpg"])) == []


def test_if_none_is_there_it_is_said_what_was_tried_and_from_which_root(here: Path) -> None:
    assert refusal(csv_of(["no/1.png", "no/2.png"])) == (
        f"{here}/images.csv: none of 2 images looked at is there: the first would be {here}/no/1.png "
        "(relative paths start at the CSV's folder); check the paths, or give the folder that they start from with "
        "--image-root; if only the workers see the images: --no-check"
    )
    assert f"would be {here}/photos/no.png (relative paths start at --image-root {here}/photos); " in refusal(
        csv_of(["no.png"]), Path("photos")
    )
    assert "the first would be /no/where.png; check the paths" in refusal(csv_of(["/no/where.png"]))


@pytest.mark.parametrize(
    ("path", "csv", "root"),
    [
        ("1.jpg", "images.csv", None),  # two folders down
        ("in/1.jpg", "images.csv", None),
        ("photos/in/1.jpg", "lists/images.csv", None),  # from the working folder
        ("photos/in/1.jpg", "../lists/images.csv", None),
        ("in/1.jpg", "images.csv", "photos/in"),  # a root too deep
        ("home/photos/in/1.jpg", "images.csv", None),  # from the folder above
    ],
)
def test_the_root_that_is_advised_is_the_right_one(path: str, csv: str, root: str | None) -> None:
    source = csv_of([path], csv)
    advice = re.search(r"; give --image-root (\S+);", refusal(source, None if root is None else Path(root)))
    assert advice is not None
    assert looked_at(source, Path(shlex.split(advice[1])[0])) == []


def test_blanks_around_paths_are_no_part_of_them() -> None:
    assert looked_at(csv_of([" photos/in/1.jpg", "photos/in/2.jpg  "])) == []


def test_no_bytes_are_to_be_replaced_where_half_a_letter_may_be_a_backslash() -> None:
    csv = Path("images.csv")
    csv.write_bytes("path\nphotos\\in\\1.jpg\n表\\x.jpg\n".encode("shift_jis"))
    source = CsvSource(csv, ReadOptions(encoding="shift_jis"))
    with pytest.raises(UsageError, match=r"photos/in/1\.jpg is there: write slashes for backslashes; if only"):
        check_files(source, [path for _, path in source.survey().sample], print)


def test_advised_slashes_work_as_they_are_typed() -> None:
    advice = re.search(r"(tr .*?);", refusal(csv_of([r"photos\in\1.jpg", r"photos\in\2.jpg"])))
    assert advice is not None
    subprocess.run(advice[1], shell=True, check=True)
    assert looked_at(Path("slashes.csv")) == []


@pytest.mark.parametrize(
    ("path", "cure"),
    [
        (
            r"C:photos\in\1.jpg",
            r"1.jpg is there: leave out C: and write slashes for backslashes: tr '\\' / < images.csv",
        ),
        ("C:/photos/in/1.jpg", "write '{here}' for 'C:' in them"),
        (r"D:\My%20Photos\in\1.jpg", "write '{here}/photos' for '/My Photos' in them"),
        ("C:/Users/me/no.jpg", "C: is a drive of Windows, which has another path here; check the paths"),
        (r"Users\no.jpg", "the paths are written with backslashes, as on Windows; check the paths"),
        ("no%20where.jpg", "the paths are written as in a URL; check the paths"),
        ("~/no.jpg", "~ is the home folder only in a shell; check the paths"),
        ("photos/in/3%20x.jpg", "photos/in/3 x.jpg is there: decode the paths, which are written as in a URL"),
        ("~/photos/in/1.jpg", "/photos/in/1.jpg is there: write the home folder instead of ~"),
        ("photos/in/1", "photos/in/1.jpg is there: add .jpg to the paths"),
        ("in/1", "; add .jpg to the paths, and give --image-root photos;"),
        ("/mnt/old/in/1.jpg", "write '{here}/photos' for '/mnt/old' in them"),
        ("old/photos/in/1.jpg", "write '{here}' for 'old' in them"),
    ],
)
def test_other_spellings_are_tried(here: Path, path: str, cure: str) -> None:
    assert cure.format(here=here) in refusal(csv_of([path]))


@pytest.mark.parametrize(
    ("file", "path", "form"), [("\u00e9.jpg", "e\u0301.jpg", "NFC"), ("e\u0301.jpg", "\u00e9.jpg", "NFD")]
)
def test_a_name_that_only_looks_the_same_is_told(here: Path, file: str, path: str, form: str) -> None:
    (here / file).touch()
    assert f"{file} is there: it only looks the same; write the paths' letters in Unicode's form {form}" in refusal(
        csv_of([path])
    )


def test_if_only_some_are_missing_their_number_is_said(here: Path) -> None:
    assert looked_at(csv_of(["photos/in/1.jpg", "b.jpg", "c.jpg"])) == [
        f"warning: 2 of 3 images looked at are not there, such as '{here}/b.jpg'"
    ]


def test_of_a_long_csv_only_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr("producer.sources.looking._stat", looked.append)  # returns None: it is there
    looked_at(csv_of(f"{number}.jpg" for number in range(5000)))
    assert len(looked) == 200
    assert {os.path.basename(path) for path in looked} >= {f"{number}.jpg" for number in range(100)}


@pytest.mark.usefixtures("nobody_special")
def test_a_folder_that_may_not_be_looked_into_is_no_proof() -> None:
    private = Path("private")
    private.mkdir(mode=0)
    try:
        [said] = looked_at(csv_of(["private/1.jpg"]))
    finally:
        private.chmod(0o700)
    at = Path("private/1.jpg").absolute()
    assert said == f"warning: 1 of 1 images looked at could not be looked for ('{at}': Permission denied)"


def test_a_disk_that_does_not_answer_is_not_waited_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, as no mount here hangs."""
    answer = threading.Event()
    monkeypatch.setattr("producer.sources.check_files.LOOK_SECONDS", 0.2)
    monkeypatch.setattr("producer.sources.looking._stat", lambda path: answer.wait() and None)
    try:
        [said] = looked_at(csv_of(f"photos/in/{number}.jpg" for number in range(50)))
    finally:
        answer.set()
    assert said == f"warning: 50 of 50 images looked at could not be looked for ('{here}/photos/in/0.jpg': no answer)"
