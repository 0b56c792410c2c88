"""A part of a bucket as a source: which objects are rows, in which order, and what is said if it cannot be listed."""

import re
from pathlib import Path

import pytest

from producer.layout import OBJECT_DIGEST
from producer.sources import place
from producer.sources.bucket import BucketSource, rows_below
from producer.sources.kinds import open_source
from producer.sources.selection import LeftOut
from producer.sources.source import ReadOptions
from tests import buckets as door
from tests.buckets import OF_EACH_CLOUD, Bucket
from tests.memory import traced
from workers.errors import UsageError
from workers.places import buckets, location

ODD = (
    "a b.jpg",
    "ü/é.JPEG",
    "50%2F50.png",
    "c#d.jpg",
    "q?x.jpg",
    "plus+.jpg",
    "back\\slash.jpg",
    "[1]*.jpg",
    "x:y.jpg",
)


def paths(url: str) -> list[str]:
    return [row.path for row in open_source(url, ReadOptions()).rows()]


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SILENT_SECONDS": 0.5, "RETRY_SECONDS": 0.5, "RETRIES": 1}.items():
        monkeypatch.setattr(buckets, name, value)


@OF_EACH_CLOUD
def test_the_images_below_a_part_are_rows_with_whatever_names_they_have(bucket: Bucket) -> None:
    odd = [name for name in ODD if "\\" not in name or bucket.scheme != "az"]  # Azure makes a slash of a backslash
    for name in odd:
        bucket.put(f"photos/{name}", b"any")
    for marker in ("photos/", "photos/ü/", "photos/empty/"):
        bucket.put(marker, b"")
    bucket.put("photos-2/other.jpg", b"any")
    bucket.put("photos/notes.txt", b"any")
    bucket.put("photos/.cache/a.jpg", b"any")
    bucket.put("photos/@eaDir/a.jpg", b"any")
    source = open_source(f"{bucket.scheme.upper()}://{bucket.name}/photos/", ReadOptions())
    assert (source.place, source.root, source.confined) == (f"{bucket.url}/photos", f"{bucket.url}/photos", False)
    found = [row.path for row in source.rows()]
    assert sorted(found) == sorted(odd)
    assert [row.path for row in source.rows(skip=4)] == found[4:]
    assert all(location.stat(location.place(source.root, path)).size == 3 for path in found)
    assert source.survey().rows == len(odd)
    assert set(source.left_out) == {
        LeftOut("without an image's suffix", 1, "notes.txt"),
        LeftOut("hidden", 1, ".cache/a.jpg"),
        LeftOut("in a trash or thumbnail folder", 1, "@eaDir/a.jpg"),
    }


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/**/*.jpg", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),
        ("photos/*.jpg", ["1.jpg"]),
        ("photos/a/**", ["2.jpg", "b/3.jpg", "b/4.png"]),
        ("photos/a/?/*", ["b/3.jpg", "b/4.png"]),
        ("**/[34].*", ["photos/a/b/3.jpg", "photos/a/b/4.png"]),
    ],
)
@OF_EACH_CLOUD
def test_a_pattern_takes_the_keys_that_a_folder_would_give(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, names: list[str]
) -> None:
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", "a/b/4.png"):
        bucket.put(f"photos/{name}", b"any")
        (file := tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"any")
    assert paths(f"{bucket.url}/{pattern}") == names
    monkeypatch.chdir(tmp_path)
    assert sorted(paths(pattern)) == names


def test_a_name_with_a_wildcard_that_is_there_is_no_pattern(bucket: Bucket) -> None:
    for name in ("shoot [1]/a.jpg", "shoot 1/b.jpg"):
        bucket.put(name, b"any")
    assert paths(f"{bucket.url}/shoot [1]") == ["a.jpg"]
    assert place.name(f"{bucket.url}/shoot [1]") == "shoot [1]"
    assert place.name(f"{bucket.url}/shoot ?/*.jpg") == bucket.name


def test_a_listing_of_many_pages_is_read_page_by_page(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number:05}.jpg" for number in range(1203)]
    for name in names:
        bucket.put(f"many/{name}", b"any")
    source = BucketSource(f"{bucket.url}/many", ReadOptions(needs_prompt=False))
    assert [row.path for row in source.rows()] == names
    pages = bucket.asked["GET", ""]
    next(source.rows())
    assert bucket.asked["GET", ""] <= pages + 2  # the second page at most is asked for ahead
    with traced() as memory:
        source.survey()
    assert memory.peak < 1_500_000  # of a page, not of all


@OF_EACH_CLOUD
def test_what_our_exports_wrote_is_no_input_though_it_may_be_listed_before_their_record(bucket: Bucket) -> None:
    """Also where a user's own images lie beside it, and where it was copied without its marks."""
    mask, ours = b"\x89PNG\r\n\x1a\n....tEXtsam3-run\0faces", ("masks/(1)/a.jpg.png", "masks/a.jpg", "masks/copied.png")
    for name in ("a.jpg", "masks/.sam3-masks.json", "masks/own.png", "x/b.png", "masks/copied.png"):
        bucket.put(name, mask if "copied" in name else b"any")
    for name in ours[:2]:
        buckets.put(f"{bucket.url}/{name}", b"any", None, {OBJECT_DIGEST: "1"})
    source = open_source(bucket.url, ReadOptions())
    assert source.survey().rows == 3
    assert [row.path for row in source.rows()] == ["a.jpg", "masks/own.png", "x/b.png"]
    assert LeftOut("from sam3-run or sam3-export", 3, ours[0]) in source.left_out
    for name in ours[:2]:
        assert bucket.asked["HEAD", name] == 1


def test_a_page_of_objects_that_a_pattern_does_not_take_ends_no_listing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.sources.bucket.PAGE_OBJECTS", 2)
    for name in ("a.txt", "b.txt", "c.jpg", "d.txt", "e.txt", "f.txt", "g.jpg"):
        bucket.put(f"photos/{name}", b"any")
    assert paths(f"{bucket.url}/photos/*.jpg") == ["c.jpg", "g.jpg"]
    assert rows_below(f"{bucket.url}/photos/*.txt") == ["a.txt", "b.txt", "d.txt", "e.txt", "f.txt"]


def test_one_listing_tells_what_a_part_is(bucket: Bucket) -> None:
    bucket.put("photos/a.jpg", b"any")
    assert rows_below(f"{bucket.url}/photos") == []
    open_source(f"{bucket.url}/photos", ReadOptions())
    assert bucket.asked["GET", ""] == 1


def test_masks_of_ours_beside_parquet_files_do_not_make_images_of_a_part(bucket: Bucket) -> None:
    bucket.put("parts/.sam3-masks.json", b"{}")
    buckets.put(f"{bucket.url}/parts/a.png", b"any", None, {OBJECT_DIGEST: "1"})
    bucket.put("parts/b.parquet", b"any")
    assert rows_below(f"{bucket.url}/parts") == ["b.parquet"]


def test_an_export_into_the_source_itself_takes_no_image_away(bucket: Bucket) -> None:
    bucket.put("photos/a.jpg", b"any")
    bucket.put("photos/.sam3-masks.json", b"{}")
    assert paths(f"{bucket.url}/photos") == ["a.jpg"]


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("fault", "url", "said"),
    [
        (door.FORBIDDEN, "{}/photos", r"cannot be read: the server says 403 Forbidden \(AccessDenied\)"),
        (door.BROKEN, "{}/photos", "cannot be read: the server says 500 Internal Server Error"),
        (door.SILENT, "{}/photos", "cannot be read: .*(127.0.0.1:|az://).* does not answer: it takes too long"),
        (
            "",
            "{}-is-not-there/photos",
            r"cannot be read: the server says 404 Not Found \((NoSuchBucket|ContainerNotFound)\)",
        ),
        ("", "{}/nothing", "no images below it; give a part of a bucket with JPEG"),
        ("", "{}/*.gif", "matches no images; left out: 1 .*|matches no images; give a part"),
        ("", "{}/odd", 'Path "odd/a//b.jpg" contained empty path segment; give that object another key'),
    ],
)
@OF_EACH_CLOUD
def test_what_keeps_it_from_being_listed_is_said_in_one_line(bucket: Bucket, fault: str, url: str, said: str) -> None:
    bucket.put("photos/a.jpg", b"any")
    if "odd" in url:
        bucket.put("odd/a//b.jpg", b"any")
    bucket.faults[""] = fault
    with pytest.raises(UsageError) as refused:
        open_source(url.format(bucket.url), ReadOptions()).survey()
    with pytest.raises(UsageError, match=re.escape(str(refused.value))):
        rows_below(url.format(bucket.url))
    assert re.search(said, str(refused.value))
    assert str(refused.value).startswith(f"{url.format(bucket.url)}: ")
    assert "\n" not in str(refused.value)


def test_flags_for_files_with_rows_are_refused(bucket: Bucket) -> None:
    bucket.put("a.jpg", b"any")
    with pytest.raises(UsageError, match="is a bucket: --prompt-column, --box-column, --image-column"):
        open_source(bucket.url, ReadOptions(image_column="path"))
    with pytest.raises(UsageError, match="give --prompt TEXT"):
        open_source(bucket.url, ReadOptions(needs_prompt=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://host/photos", "a web server does not list its images"),
        ("s3://me:secret@bucket/photos", "the URL holds a user or a password"),
        ("s3:///photos", "the URL names no object"),
        ("s3://", "the URL names no object"),
        ("ftp://host/photos", "'ftp://' is a URL that is not read"),
        ("s3://bucket/a//b", "the URL holds an empty name"),
        ("s3://bucket", None),
        ("photos/*.jpg", None),
    ],
)
def test_a_place_that_is_no_source_is_known_by_its_text(given: str, said: str | None) -> None:
    fault = place.fault(given)
    assert fault is None if said is None else said in str(fault)
