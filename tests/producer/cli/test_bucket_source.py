"""A run of a part of a bucket, and of a list that lies in one: recorded, grown, resumed, moved, refused."""

import gzip
import io
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export
from producer.cli.progress import Meter
from producer.cli.run import main as run
from producer.cli.status import main as status
from tests import buckets as door
from tests.buckets import OF_EACH_CLOUD, Bucket
from tests.producer.cli.conftest import Shell
from workers.places import buckets

PROMPT = ("--prompt", "person")


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SILENT_SECONDS": 0.5, "RETRY_SECONDS": 0.5, "RETRIES": 1}.items():
        monkeypatch.setattr(buckets, name, value)


def exported(shell: Shell, run: str) -> list[str]:
    answer = shell(export, run, "--format", "csv", "-o", "-", "--partial").out
    return [line.split(",")[0] for line in answer.splitlines()[1:]]


@pytest.mark.usefixtures("broker")
@OF_EACH_CLOUD
def test_a_part_of_a_bucket_is_recorded_and_grows_as_a_folder_does(shell: Shell, bucket: Bucket) -> None:
    for name in ("b.jpg", "sub/c d.jpg", "notes.txt"):
        bucket.put(f"photos/{name}", b"any")
    given = ("--source", f"{bucket.url}/photos", *PROMPT)
    dry = shell(enqueue, *given, "--dry-run", "--json").json
    assert (dry["run"], dry["images"], dry["left_out"][0]["count"]) == ("photos", 2, 1)
    assert dry["first"] == [f"{bucket.url}/photos/b.jpg", f"{bucket.url}/photos/sub/c d.jpg"]
    first = shell(enqueue, *given)
    assert "run photos: 2 images" in first.out
    assert "left out: 1 without an image's suffix (notes.txt; if they are images, give a list of them)" in first.err
    assert "run photos: 2 images in 1 chunk, 0 new" in shell(enqueue, *given[:1], f"{given[1]}/", *PROMPT).out

    bucket.put("photos/a.jpg", b"any")
    bucket.delete("photos/b.jpg")
    grown = shell(enqueue, *given).out
    assert grown.endswith("1 new, 1 no longer in the bucket (left out of exports)\n")
    assert exported(shell, "photos") == ["a.jpg", "sub/c d.jpg"]
    assert (
        "1 row no longer in photos left out"
        in shell(export, "photos", "--format", "csv", "-o", "out.csv", "--partial").err
    )


@pytest.mark.usefixtures("broker")
def test_a_listing_that_was_interrupted_goes_on(shell: Shell, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        bucket.put(f"many/{number:04}.jpg", b"any")
    monkeypatch.setattr("db.slices.IDLE_SLICE_ROWS", 100)
    given = ("--source", f"{bucket.url}/many", *PROMPT)
    with monkeypatch.context() as one_slice:
        one_slice.setattr(Meter, "tell", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        shell(enqueue, *given, code=130)
    before = shell(status, "many", "--json").json
    assert (before["state"], 0 < before["images"]["total"] < 300) == ("loading", True)
    shell(enqueue, *given)
    assert shell(status, "many", "--json").json["images"] | {"total": 0} == before["images"] | {
        "total": 0,
        "pending": 300,
    }
    assert sorted(exported(shell, "many")) == [f"{number:04}.jpg" for number in range(300)]


def content(kind: str, names: list[str]) -> bytes:
    lines = "".join(f"{name}\n" for name in names)
    match kind:
        case "parquet":
            parquet.write_table(pyarrow.table({"path": names}), file := io.BytesIO(), row_group_size=2)
            return file.getvalue()
        case "jsonl":
            return "".join(f'{{"path": "{name}"}}\n' for name in names).encode()
        case "csv.gz":
            return gzip.compress(f"path\n{lines}".encode(), mtime=0)
    return (f"path\n{lines}" if kind == "csv" else lines).encode()


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "txt", "jsonl", "parquet"])
@OF_EACH_CLOUD
def test_a_list_in_a_bucket_is_kept_here_and_resumes_and_grows(shell: Shell, bucket: Bucket, kind: str) -> None:
    names = ["a.jpg", "sub/b.jpg"]
    bucket.put(f"lists/faces.{kind}", content(kind, names))
    given = ("--source", f"{bucket.url}/lists/faces.{kind}", *PROMPT)
    dry = shell(enqueue, *given, "--dry-run", "--json").json
    assert (dry["run"], dry["first"]) == ("faces", [f"{bucket.url}/lists/{name}" for name in names])
    assert not (shell.home.parent / "state").exists()
    assert "run faces: 2 images" in shell(enqueue, *given).out
    assert "run faces: 2 images in 1 chunk, 0 new" in shell(enqueue, *given).out
    [kept] = (shell.home.parent / "state" / "fetched").rglob(f"faces.{kind}")
    assert kept.stat().st_mode & 0o077 == 0

    bucket.put(f"lists/faces.{kind}", content(kind, [*names, "c.jpg"]))
    assert "3 images in 2 chunks, 1 queued now, 1 new" in shell(enqueue, *given).out
    assert exported(shell, "faces") == [*names, "c.jpg"]


@pytest.mark.usefixtures("broker")
def test_a_row_and_a_change_of_a_list_are_told_by_its_url(shell: Shell, bucket: Bucket) -> None:
    bucket.put("faces.csv", b"path,x\na.jpg,1\nb.jpg\n")
    given = ("--source", f"{bucket.url}/faces.csv", *PROMPT)
    assert "rejected: faces.csv:3: 1 column, the header has 2" in shell(enqueue, *given, "--dry-run", code=1).err
    bucket.put("faces.csv", b"path,x\n\xff.jpg,1\n")
    refused = shell(enqueue, *given, code=2).error
    assert f"{bucket.url}/faces.csv:2:" in refused
    assert "fetched" not in refused
    shell(status, "faces", code=4)


@pytest.mark.parametrize(
    ("key", "held", "what"),
    [
        ("rows.json", b'[{"path": "a.jpg"}]', "one JSON array"),
        ("rows.csv", b"PK\3\4 any", "zip, not CSV text"),
        ("rows.csv", b"\xff\xd8\xff any", "a JPEG image, not CSV text"),
    ],
)
def test_no_hint_has_a_shell_read_a_url(shell: Shell, bucket: Bucket, key: str, held: bytes, what: str) -> None:
    bucket.put(key, held)
    refused = shell(enqueue, "--source", f"{bucket.url}/{key}", *PROMPT, code=2).error
    cure = "copy it to this machine and give that copy, to be told how to convert it"
    assert refused == f"sam3: error: {bucket.url}/{key}: is {what}; {cure}"


@pytest.mark.usefixtures("broker")
def test_a_list_that_was_moved_in_its_bucket_is_known_by_its_content(shell: Shell, bucket: Bucket) -> None:
    bucket.put("old/faces.csv", b"path\na.jpg\n")
    bucket.put("old/a.jpg", b"any")
    given = ("--run", "faces", *PROMPT)
    shell(enqueue, "--source", f"{bucket.url}/old/faces.csv", *given)
    bucket.delete("old/faces.csv")
    bucket.put("new/faces.csv", b"path\na.jpg\n")
    moved = shell(enqueue, "--source", f"{bucket.url}/new/faces.csv", *given).err
    assert f"run faces goes on with {bucket.url}/new/faces.csv, which was {bucket.url}/old/faces.csv" in moved
    assert f"its images are still below {bucket.url}/old" in moved

    bucket.put("new/faces.csv", b"path\nb.jpg\n")
    again = ("--source", f"{bucket.url}/newer/faces.csv", "--moved-from", f"{bucket.url}/new/faces.csv", *given)
    bucket.put("newer/faces.csv", b"path\nb.jpg\n")
    assert "is still there; move it away" in shell(enqueue, *again, code=2).error
    bucket.delete("new/faces.csv")
    assert "goes on with" in shell(enqueue, *again).err


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("command", [(enqueue, "--source"), (run,)])
@pytest.mark.parametrize(
    ("fault", "key", "said"),
    [
        (door.FORBIDDEN, "photos", "cannot be read: "),
        (door.FORBIDDEN, "list.csv", "cannot be read: "),
        (door.BROKEN, "list.csv", "cannot be read: the server says 500"),
        (door.CUT, "list.csv", "cannot be read: "),
        ("", "nothing", "no images below it"),
        ("", "photos/a.jpg", "is an image; give the part of the bucket that it is in, or a list of images"),
        ("", "empty.csv", "no images below it"),
    ],
)
@OF_EACH_CLOUD
def test_a_source_that_cannot_be_had_is_told_in_one_line_before_anything_is_recorded(
    shell: Shell, bucket: Bucket, command: tuple[object, ...], fault: str, key: str, said: str
) -> None:
    bucket.put("photos/a.jpg", b"any")
    bucket.put("list.csv", b"path\na.jpg\n" * 100)
    bucket.put("empty.csv", b"")
    bucket.faults[""] = fault
    main, *flag = command
    given = (*flag, f"{bucket.url}/{key}", *PROMPT, *(() if flag else ("-o", "out", "--gpus", "cpu")))
    refused = shell(main, *given, code=2).error  # type: ignore[arg-type]
    assert f"{bucket.url}/{key}: " in refused
    assert said in refused
    assert bucket.secret not in refused
    assert not (shell.home / "out").exists()
    assert not any(path.is_file() for path in (Path(shell.home.parent) / "state").rglob("*"))


def test_a_row_that_leads_out_of_the_folder_of_a_list_in_a_bucket_is_rejected(shell: Shell, bucket: Bucket) -> None:
    bucket.put("lists/faces.csv", b"path\n../photos/a.jpg\n")

    told = shell(enqueue, "--source", f"{bucket.url}/lists/faces.csv", *PROMPT, "--dry-run", code=1)

    assert (
        f"the path leads out of {bucket.url}/lists by .., which no bucket is asked for; write the whole URL" in told.err
    )


def put_parts(bucket: Bucket, kind: str, numbers: range) -> None:
    for number in numbers:
        bucket.put(f"parts/part-{number}.{kind}", content(kind, [f"{number}.jpg", f"sub/{number}.jpg"]))


@pytest.mark.usefixtures("broker")
@OF_EACH_CLOUD
@pytest.mark.parametrize(("kind", "pattern"), [("parquet", ""), ("parquet", "/**/*.parquet"), ("csv.gz", "/*.csv.gz")])
def test_files_of_rows_in_a_bucket_are_one_source_that_grows(
    shell: Shell, bucket: Bucket, kind: str, pattern: str
) -> None:
    put_parts(bucket, kind, range(9, 11))
    for name in ("_SUCCESS", "_temporary/x.parquet", "other.txt", ".part-9.crc"):
        bucket.put(f"parts/{name}", b"any")
    given = ("--source", f"{bucket.url}/parts{pattern}", *PROMPT)
    dry = shell(enqueue, *given, "--dry-run", "--json")
    assert (dry.json["run"], dry.json["images"]) == ("parts", 4)
    assert dry.json["first"][:2] == [f"{bucket.url}/parts/9.jpg", f"{bucket.url}/parts/sub/9.jpg"]
    assert not (shell.home.parent / "state").exists()
    assert "run parts: 4 images" in shell(enqueue, *given).out
    put_parts(bucket, kind, range(11, 12))
    assert "6 images in 2 chunks, 1 queued now, 2 new" in shell(enqueue, *given).out
    bucket.delete(f"parts/part-10.{kind}")
    assert "0 new, 2 no longer in the" in shell(enqueue, *given).out
    assert exported(shell, "parts") == ["9.jpg", "sub/9.jpg", "11.jpg", "sub/11.jpg"]
    assert len([path for path in (shell.home.parent / "state" / "fetched").rglob("part-*") if path.is_file()]) == 2

    bucket.put(f"parts/part-12.{kind}", b"damaged")
    refused = shell(enqueue, *given, code=2).error
    assert f"{bucket.url}/parts/part-12.{kind}" in refused
    assert "fetched" not in refused


@pytest.mark.usefixtures("broker")
def test_images_of_a_part_of_a_bucket_come_before_parquet_files_which_are_told(shell: Shell, bucket: Bucket) -> None:
    put_parts(bucket, "parquet", range(1))
    bucket.put("parts/z.jpg", b"any")
    told = shell(enqueue, "--source", f"{bucket.url}/parts", *PROMPT, "--dry-run")
    assert "run parts: 1 image in" in told.out
    assert "left out: 1 Parquet file (part-0.parquet" in told.out + told.err
    bucket.put("parts/_delta_log/0.json", b"any")
    bucket.delete("parts/z.jpg")
    refused = shell(enqueue, "--source", f"{bucket.url}/parts", *PROMPT, code=2).error
    assert f"{bucket.url}/parts: is a Delta table" in refused
