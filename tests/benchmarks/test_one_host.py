"""Eight nodes on one host, a few images each: that all is measured and every image is committed, not how fast."""

import pytest

from benchmarks import one_host
from benchmarks.photographs import KINDS


@pytest.mark.long
def test_each_kind_of_work_is_measured_alone_and_nodes_commit_every_image_to_both_databases() -> None:
    host = one_host.measure(images=128, seconds=0.5, kinds=KINDS[:1])
    assert {row["alone"] for row in host.alone} == {
        "decoding and masks, 640x480 JPEG", "commits, sqlite", "commits, postgresql"
    }  # fmt: skip
    carried = [row["GPUs that it carries"] for row in host.alone]
    assert carried == sorted(carried)
    assert [(row["images"], row["database"]) for row in host.together] == [
        (kind, database) for database in ("sqlite", "postgresql") for kind in ("decoded already", "640x480 JPEG")
    ]
    for row in host.together:
        assert (
            0 < row["of the devices' pace"] <= 1.2
        )  # the devices are a bound, but for the batch that each begins with
        assert row["CPU, ms an image"] > 0
    assert "shared with other work" in one_host.tables(host)
