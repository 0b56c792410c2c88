"""`sam3-export -o s3://...`: one file becomes one object, whole or not at all, and no foreign object is replaced."""

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from producer.cli.export import main as export
from producer.cli.run import main as run
from producer.results.files.bucket_output import BucketOutput
from tests import buckets as door
from tests.buckets import OF_EACH_CLOUD, SECRET, Bucket, of_clouds
from tests.producer.cli.conftest import Shell
from workers.errors import UsageError
from workers.places import buckets

# pycocotools' compiled decode does not follow numpy 2's protocol yet; the masks are right.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.usefixtures("faces"),
]


@pytest.fixture(autouse=True)
def here(bucket: Bucket, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "RETRIES", 0)


def write(output: BucketOutput, meanwhile: Callable[[], object]) -> None:
    with output.replacing(output.named) as temporary:
        temporary.write_bytes(b"ours")
        meanwhile()


@pytest.mark.parametrize("format", ["csv", "coco", "coco-results", "jsonl", "parquet"])
def test_each_format_of_one_file_is_the_same_in_a_bucket_and_may_be_written_again(
    shell: Shell, bucket: Bucket, format: str
) -> None:
    shell(export, "faces", "--format", format, "-o", "out.any")
    place = f"{bucket.url}/results/out.any"
    for _ in range(2):
        told = shell(export, "faces", "--format", format, "-o", place)
        assert told.err.startswith(f"{place}: 3 images, 3 instances\n" if format == "csv" else f"{place}: ")
        assert bucket.get("results/out.any") == (shell.home / "out.any").read_bytes()
    assert bucket.asked["PUT", "results/out.any"] == 2
    assert shell(export, "faces", "--format", format, "-o", place, "--json").json["path"] == place


@OF_EACH_CLOUD
def test_an_object_that_is_not_ours_is_replaced_only_by_force(shell: Shell, bucket: Bucket) -> None:
    bucket.put("notes.csv", b"my,notes\n1,2\n")
    place = f"{bucket.url}/notes.csv"
    refused = shell(export, "faces", "--format", "csv", "-o", place, code=2).error
    advice = "choose another -o, or add --force to lose what it holds"
    assert refused.endswith(f"{place} was not made by an export of ours, so it is not replaced: {advice}")
    assert bucket.get("notes.csv") == b"my,notes\n1,2\n"
    shell(export, "faces", "--format", "csv", "-o", place, "--force")
    assert b"sam3_status" in (bucket.get("notes.csv") or b"")


@OF_EACH_CLOUD
def test_an_object_that_somebody_writes_meanwhile_is_kept(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there was none before, or one of ours; also one that is too large for the server to compare."""
    for key, limit in (("a.csv", 100), ("b.csv", 100), ("c.csv", 0)):
        monkeypatch.setattr(buckets, "COMPARED_BYTES", limit)
        if key == "b.csv":
            bucket.put(key, b"")
        output = BucketOutput(f"{bucket.url}/{key}")
        with pytest.raises(UsageError, match="was written by somebody else meanwhile"):
            write(output, partial(bucket.put, key, b"theirs"))
        assert bucket.get(key) == b"theirs"


@of_clouds("s3", "az")  # fake-gcs-server knows no parts in XML
def test_a_large_file_goes_in_parts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "COMPARED_BYTES", 1 << 20)
    output, content = BucketOutput(f"{bucket.url}/a.csv"), bytes(range(256)) * (24 << 10)
    with output.replacing(output.named) as temporary:
        temporary.write_bytes(content)
    assert bucket.get("a.csv") == content


def test_a_large_file_for_google_goes_in_parts_as_for_s3(
    bucket_ports: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google's XML interface takes parts as S3 does, so S3's server stands in for its own."""
    monkeypatch.setattr(buckets, "COMPARED_BYTES", 1 << 20)
    # Google's client asks for a hyphen as %2D, which that server does not know for one.
    with closing(Bucket(bucket_ports("s3"), f"parts{os.getpid()}")) as bucket:
        for name, value in {"GOOGLE_BASE_URL": bucket.endpoint, "GOOGLE_BEARER_TOKEN": SECRET}.items():
            monkeypatch.setenv(name, value)
        output, content = BucketOutput(f"gs://{bucket.name}/a.csv"), bytes(range(256)) * (24 << 10)
        for _ in range(2):
            with output.replacing(output.named, lambda file: True) as temporary:
                temporary.write_bytes(content)
        assert bucket.get("a.csv") == content
        assert bucket.asked["POST", "a.csv"] == 2 * 2  # the first and the last request of an upload


@pytest.mark.parametrize(
    ("fault", "place", "said"),
    [
        (door.FORBIDDEN, "{}/a.csv", "cannot write: the server says 403 Forbidden"),
        (door.BROKEN, "{}/a.csv", "cannot write: the server says 500 Internal Server Error"),
        ("", "s3://no-such-bucket/a.csv", "cannot write: the server says 404 Not Found (NoSuchBucket)"),
        ("", "s3://me:" + SECRET + "@b/a.csv", "the URL holds a user or a password"),
        ("", "{}", "the URL names no object"),
        ("", "ftp://host/a.csv", "'ftp://' is a URL that is not read"),
    ],
)
def test_what_keeps_it_from_being_written_is_said_in_one_line_before_a_row_is_read(
    shell: Shell, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, fault: str, place: str, said: str
) -> None:
    bucket.faults[""] = fault
    monkeypatch.setattr(
        "producer.cli.exported.read_images", lambda *_: iter(pytest.fail("rows were read") for _ in "1")
    )
    refused = shell(export, "faces", "--format", "csv", "-o", place.format(bucket.url), code=2).error
    assert said in refused
    assert SECRET not in refused


def test_sam3_run_works_in_a_folder_and_says_what_to_do_instead(shell: Shell, bucket: Bucket) -> None:
    (shell.home / "a.txt").write_text("a.jpg\n")
    refused = shell(run, "a.txt", "--prompt", "cat", "-o", f"{bucket.url}/out", code=2).error
    assert "give a folder, then sam3-export RUN -o s3://bucket/key" in refused


@OF_EACH_CLOUD
def test_a_right_that_is_lost_at_the_end_leaves_no_object(shell: Shell, bucket: Bucket) -> None:
    output = BucketOutput(f"{bucket.url}/a.csv")
    with pytest.raises(UsageError, match=r"a\.csv: cannot write: the server says 403 Forbidden"):
        write(output, partial(bucket.faults.update, {"": door.FORBIDDEN}))
    assert bucket.get("a.csv") is None


@OF_EACH_CLOUD
def test_a_format_that_fills_a_folder_fills_a_part_of_the_bucket_and_goes_on(shell: Shell, bucket: Bucket) -> None:
    place = f"{bucket.url}/masks"
    command = ("faces", "--format", "png", "-o", f"{place}/", "--jobs", "2")
    assert shell(export, *command).err == f"{place}: 2 images, 3 instances\n"
    again = shell(export, *command, "--json").json
    assert (again["path"], again["files"], again["kept"]) == (place, 2, 2)
    assert (bucket.get("masks/person/000001.jpg.png") or b"").startswith(b"\x89PNG")
    shell(export, "faces", "--format", "coco", "--shard-images", "2", "-o", f"{bucket.url}/shards")
    assert bucket.get("shards/coco-000000.json") is not None


def test_masks_of_a_table_are_looked_for_in_folders_of_this_machine_only(shell: Shell, bucket: Bucket) -> None:
    error = shell(export, "faces", "--format", "csv", "--masks", f"{bucket.url}/masks", "-o", "-", code=2).error

    assert "Invalid value for '--masks': a URL is no place for that; give the folder of this machine" in error
