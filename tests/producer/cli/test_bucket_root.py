"""A run whose root is a part of a bucket: the same command again, another root, and a root that was moved."""

import pytest

from producer.cli.enqueue import main as enqueue
from producer.cli.export import main as export
from producer.cli.status import main as status
from tests.buckets import Bucket
from tests.producer.cli.conftest import Shell
from workers.places import location


@pytest.mark.usefixtures("broker")
def test_a_run_keeps_its_root_and_goes_on_where_its_objects_were_moved_to(shell: Shell, bucket: Bucket) -> None:
    names = ("a.jpg", "b/c.jpg")
    for folder in ("old", "new"):
        for name in names:
            bucket.put(f"{folder}/{name}", b"any")
    (shell.home / "faces.csv").write_text("path\n" + "".join(f"{name}\n" for name in names))
    given = ("--csv", "faces.csv", "--prompt", "person", "--image-root")
    shell(enqueue, *given, f"{bucket.url}/old/")

    assert shell(enqueue, *given, f"S3://{bucket.name}/old").out == "run faces: 2 images in 1 chunk, 0 new\n"
    assert shell(enqueue, *given, f"{bucket.url}/new", "--dry-run").out.count(f"image: {bucket.url}/new/") == 2
    rows = shell.home / "rows.txt"
    rows.write_text(f"{bucket.url}/old/b/c.jpg\n")
    picked = shell(export, "faces", "--format", "csv", "-o", "-", "--partial", "--rows", rows).out
    assert [line.split(",")[0] for line in picked.splitlines()] == ["path", "b/c.jpg"]

    for name in names:
        bucket.delete(f"old/{name}")
    assert not location.exists(f"{bucket.url}/old")
    moved = shell(enqueue, *given, f"{bucket.url}/new").err
    assert f"run faces goes on with {bucket.url}/new, which was {bucket.url}/old" in moved
    assert shell(status, "faces", "--json").json["images"]["pending"] == 2
