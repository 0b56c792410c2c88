"""Files are replaced only when they are whole, and only if an export of ours made them; links are not followed."""

import resource
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from producer.results.files.targets import Targets
from workers.errors import UsageError


def replacing(path: Path) -> AbstractContextManager[Path]:
    """What is there is of no account here."""
    return Targets(path, force=True).replacing(path)


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.csv"
    with replacing(out) as temporary:
        temporary.write_text("first")
    with pytest.raises(KeyboardInterrupt):
        _be_interrupted_while_writing(out)
    assert out.read_text() == "first"
    assert list(out.parent.iterdir()) == [out]


def _be_interrupted_while_writing(out: Path) -> None:
    with replacing(out) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from producer.results.files.targets import Targets

out = Path(sys.argv[1])
with Targets(out).replacing(out) as temporary:
    temporary.write_text("half, and longer than what comes later")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_export_left_is_used_up_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / ("é" * 127)  # 254 bytes: nothing can be appended to such a name
    assert subprocess.run([sys.executable, "-c", KILLED, out], check=False).returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert left != out

    with replacing(out) as temporary:
        temporary.write_text("whole")

    assert list(tmp_path.iterdir()) == [out]
    assert out.read_text() == "whole"


def test_two_files_are_written_at_once_but_one_only_by_one(tmp_path: Path) -> None:
    one, other = tmp_path / "a.csv", tmp_path / "b.csv"
    with replacing(one) as first, replacing(other) as second:
        first.write_text("one")
        second.write_text("other")
        with pytest.raises(UsageError, match=r"a\.csv: another export is writing it"), replacing(one):
            pass
    assert (one.read_text(), other.read_text()) == ("one", "other")
    assert sorted(tmp_path.iterdir()) == [one, other]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"a\.csv: cannot write: File too large"), replacing(out) as temporary:
            temporary.write_text("x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_folder_a_device_and_a_file_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path: "is a folder",
        Path("/dev/null"): "not an ordinary file",
        tmp_path / "file" / "a": "cannot write",
    }
    for out, message in cases.items():
        with pytest.raises(UsageError, match=message) as error, replacing(out):
            pass
        assert "\n" not in str(error.value)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    with replacing(tmp_path / "link.csv") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "real.csv").read_text() == "new"
    assert (tmp_path / "link.csv").is_symlink()


def test_a_link_below_the_folder_that_was_named_is_never_followed(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "a.csv").write_text("")
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    (out / "link.csv").symlink_to(theirs / "a.csv")
    (out / "dangling.csv").symlink_to(theirs / "b.csv")
    (out / "folder").symlink_to(theirs)
    (out / "deep" / "folder").symlink_to(theirs)
    targets = Targets(out, force=True)
    for name in ("link.csv", "dangling.csv", "folder/a.csv", "deep/folder/new/a.csv", "folder"):
        with pytest.raises(UsageError, match="is a link to somewhere else") as error, targets.replacing(out / name):
            pass
        assert "\n" not in str(error.value)
        with pytest.raises(UsageError, match="is a link to somewhere else"):
            targets.check(out / name)
    with pytest.raises(UsageError, match="is a link to somewhere else"):
        targets.make_folder(out / "folder" / "masks")
    assert [(path.name, path.read_text()) for path in theirs.iterdir()] == [("a.csv", "")]


def test_a_folder_that_is_a_link_itself_is_written_through_where_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    out = tmp_path / "link"
    out.symlink_to(tmp_path / "real")
    with Targets(out).replacing(out / "masks" / "a.png") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "real" / "masks" / "a.png").read_text() == "new"


OURS = {
    "csv": b'path,"a\nb",sam3_status,sam3_error,sam3_width,sam3_height,cat_instances,cat_score,cat_presence,cat_mask\n',
    "csv with row prompts": b"path,sam3_status,sam3_error,sam3_width,sam3_height,prompt_instances,sam3_gone\n",
    "coco": b'{\n"info": {"run": "a", "model": "m", "weights_sha256": null, "min_score": 0.5},\n"licenses": [],\n',
    "nothing": b"",
    "zeros": bytes(100_000),
}
FOREIGN = {
    "csv": b"path,label\na.jpg,cat\n",
    "csv that somebody went on in": b"path,sam3_status,sam3_error,sam3_width,sam3_height,cat_mask,checked\n",
    "csv with a column of ours": b"path,sam3_status\n",
    "coco": b'{"info": {"description": "by hand"}, "images": []}',
    "coco that was saved again": b'{"info": {"run": "a", "model": "m", "weights_sha256": null, "min_score": 0.5}}',
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "text": b"to do: buy milk",
    "bytes": bytes(range(256)) * 10,
    "zeros and something": bytes(100_000) + b"x",
    "a line without an end": b"x" * (2 << 20),
}


@pytest.mark.parametrize("content", OURS.values(), ids=OURS)
def test_what_our_exports_made_is_replaced(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "out"
    out.write_bytes(content)
    with Targets(out).replacing(out) as temporary:
        temporary.write_text("new")
    assert out.read_text() == "new"


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_they_did_not_make_is_kept_unless_it_is_forced(tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "out"
    out.write_bytes(content)
    with pytest.raises(UsageError) as error, Targets(out).replacing(out):
        pytest.fail("it was let in")
    assert str(error.value) == (
        f"{out} was not made by an export of ours, so it is not replaced: "
        "choose another -o, or add --force to lose what it holds"
    )
    assert out.read_bytes() == content
    assert list(tmp_path.iterdir()) == [out]
    with replacing(out) as temporary:
        temporary.write_text("new")
    assert out.read_text() == "new"


def test_a_file_that_comes_while_an_export_is_written_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    with pytest.raises(UsageError, match="not made by an export"):
        _be_overtaken(out)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "theirs")]


def _be_overtaken(out: Path) -> None:
    with Targets(out).replacing(out) as temporary:
        temporary.write_text("ours")
        out.write_text("theirs")
