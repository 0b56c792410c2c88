"""Runs whose images are objects of a bucket, with real commands, a real server of buckets, and its faults."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests import buckets as door
from tests.buckets import SECRET, Bucket, of_clouds
from tests.terminals import Terminal, wait_until

IMAGES = 16
RUN = ("sam3-run", "scenes.csv", "--prompt", "red circle", "-o", "out", "--gpus", "cpu")


def scene(number: int) -> bytes:
    """A red circle on white, at another place for each number."""
    picture = Image.new("RGB", (160, 120), "white")
    ImageDraw.Draw(picture).ellipse((5 + number, 10, 65 + number, 70), fill="red")
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def here(terminal: Terminal, bucket: Bucket) -> Terminal:
    terminal.environment |= bucket.environment | {
        "SAM3_IMAGE_ROOT": f"{bucket.url}/scenes",
        "SAM3_BATCH_SIZE": "2",
        "SAM3_CHUNK_SIZE": "4",
        "SAM3_DECODE_THREADS": "2",
        "SAM3_FAULT_PAUSE_SECONDS": "0.5",
    }
    return terminal


@pytest.fixture
def names(here: Terminal, bucket: Bucket) -> list[str]:
    """The keys of all scenes below the root, which `scenes.csv` names."""
    names = [f"{number:02}.jpg" for number in range(IMAGES)]
    for number, name in enumerate(names):
        bucket.put(f"scenes/{name}", scene(number))
    (here.home / "scenes.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    return names


def results(here: Terminal) -> dict[str, dict[str, str]]:
    with (here.home / "out/results.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.long
@of_clouds("gs", "az")
def test_a_run_on_a_bucket_that_is_killed_at_half_computes_each_image_once(
    here: Terminal, bucket: Bucket, names: list[str], tmp_path: Path
) -> None:
    bucket.faults["scenes/03.jpg"] = door.FORBIDDEN
    with (here.home / "scenes.csv").open("a") as file:
        file.write(f"gone.jpg\n{bucket.url}/scenes/extra.jpg\n../above.jpg\n")
    bucket.put("scenes/extra.jpg", scene(1)[:600])
    begun = here.start(*RUN, FAKE_SECONDS_PER_IMAGE="0.3")
    wait_until(lambda: len(list((here.home / "out/masks").rglob("*.png"))) >= 4, "some masks")
    begun.kill_group()
    left = here.json("sam3-status", "out")["images"]["pending"]
    assert 0 < left < IMAGES

    ended = here.run(*RUN, code=1)
    assert f"run scenes: {left} images of {IMAGES + 3} " in ended.stdout
    rows = results(here)
    failed = {name: row["sam3_error"].partition(":")[0] for name, row in rows.items() if row["sam3_error"]}
    assert failed == {
        "03.jpg": "permission",
        "gone.jpg": "missing",
        f"{bucket.url}/scenes/extra.jpg": "truncated",
        "../above.jpg": "outside_root",
    }
    assert {row["sam3_status"] for name, row in rows.items() if name not in failed} == {"segmented"}
    assert not files_with(tmp_path, bucket.secret)

    bucket.faults.clear()
    here.run(*RUN, "--retry-failed", code=1)
    assert results(here)["03.jpg"]["sam3_status"] == "segmented"


@pytest.mark.long
@of_clouds("s3", "az")
def test_a_part_of_a_bucket_is_a_source_that_is_killed_at_half_and_grows(
    here: Terminal, bucket: Bucket, names: list[str]
) -> None:
    odd = ("sub/a b.jpg", "sub/50%2F50.jpg", "ü.jpg")
    for number, name in enumerate(odd):
        bucket.put(f"scenes/{name}", scene(number))
    bucket.put("scenes/sub/", b"")
    del here.environment["SAM3_IMAGE_ROOT"]
    command = (RUN[0], f"{bucket.url}/scenes/", *RUN[2:])
    begun = here.start(*command, FAKE_SECONDS_PER_IMAGE="0.3")
    wait_until(lambda: len(list((here.home / "out/masks").rglob("*.png"))) >= 4, "some masks")
    begun.kill_group()
    left = here.json("sam3-status", "out")["images"]["pending"]
    assert 0 < left < IMAGES + len(odd)

    bucket.put("scenes/new.jpg", scene(7))
    here.run(*command)
    rows = results(here)
    assert sorted(rows) == sorted((*names, *odd, "new.jpg"))
    assert {row["sam3_status"] for row in rows.values()} == {"segmented"}
    masks = {
        str(mask.relative_to(here.home / "out/masks/red_circle")) for mask in (here.home / "out").rglob("*.jpg.png")
    }
    assert masks == {f"{name}.png" for name in rows}
    again = here.run("sam3-run", "--config", "out/run.yaml")
    assert "nothing left to do" in again.stdout


@pytest.mark.long
def test_a_server_that_fails_for_a_while_costs_no_image(here: Terminal, bucket: Bucket, names: list[str]) -> None:
    run = here.start(*RUN, FAKE_SECONDS_PER_IMAGE="0.5")
    wait_until(lambda: bucket.asked["GET", "scenes/03.jpg"], "the first chunk")
    bucket.faults[""] = door.BROKEN
    wait_until(lambda: f"last fault: {bucket.url}: the server says 500" in run.output(), "a fault of the surroundings")
    bucket.faults.clear()
    run.wait()
    assert {row["sam3_status"] for row in results(here).values()} == {"segmented"}


def test_a_bucket_without_rights_or_without_images_is_refused_before_anything_is_recorded(
    here: Terminal, bucket: Bucket, names: list[str]
) -> None:
    bucket.faults[""] = door.FORBIDDEN
    refused = here.run(*RUN, code=2)
    first = f"the first would be {bucket.url}/scenes/00.jpg"
    assert f"none of 16 images looked at can be had: {first}: the server says 403 Forbidden" in refused.stderr
    bucket.faults.clear()
    refused = here.run(*RUN, code=2, SAM3_IMAGE_ROOT=f"{bucket.url}/other")
    assert "none of 16 images looked at is there: the first would be" in refused.stderr
    refused = here.run(*RUN, code=2, SAM3_IMAGE_ROOT=f"s3://me:{SECRET}@{bucket.name}/scenes")
    assert "the URL holds a user or a password" in refused.stderr
    assert SECRET not in refused.stderr
    assert not (here.home / "out").exists()


@pytest.mark.long
def test_the_bundled_model_finds_in_a_bucket_what_it_finds_on_a_disk(
    here: Terminal, bucket: Bucket, names: list[str]
) -> None:
    """All that looks at pictures after the run does so, too: cut-outs, shards and the preview."""
    (here.home / "disk").mkdir()
    for name in names[:4]:
        content = bucket.get(f"scenes/{name}")
        assert content is not None
        (here.home / "disk" / name).write_bytes(content)
    settings = ("--prompt", "red circle", "--model", "tiny", "--gpus", "cpu", "--limit", "4")
    more = ("--also", "cutout", "--also", "webdataset", "--also", "label-studio", "--also", "labelme")
    here.run("sam3-run", "scenes.csv", *settings, "-o", "out", *more, SAM3_SEGMENTER="")
    here.run("sam3-run", "disk", *settings, "-o", "same", *more, SAM3_SEGMENTER="", SAM3_IMAGE_ROOT="")
    for folder in ("masks/red_circle", "cutouts/red_circle"):
        for name in names[:4]:
            ours, theirs = (here.home / out / folder / f"{name}.png" for out in ("out", "same"))
            assert Image.open(ours).tobytes() == Image.open(theirs).tobytes()
    for shard in ("webdataset/jpg-000000.tar",):
        assert (here.home / "out" / shard).stat().st_size == (here.home / "same" / shard).stat().st_size
    assert f'"imagePath": "{bucket.url}/scenes/00.jpg"' in (here.home / "out/labelme/00.json").read_text()
    assert f'"image": "{bucket.url}/scenes/00.jpg"' in (here.home / "out/label-studio.json").read_text()
    refused = here.run("sam3-export", "out", "--format", "yolo-seg", "-o", "yolo", code=2)
    assert "is in a bucket, and the folder of a dataset has links to files of a disk" in refused.stderr
