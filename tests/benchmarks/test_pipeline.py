"""The comparison itself at a small scale: the same work for everybody, and every row told."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

from benchmarks import photographs
from benchmarks.accelerator import SimulatedSegmenter, model_output
from benchmarks.device import Device
from benchmarks.peers import PROMPTS, Speed
from benchmarks.photographs import KINDS
from benchmarks.pipeline import Row, compare, stream_table, tables
from benchmarks.pipeline import stream as stream_through_celery
from workers.inference.items import Item, Segmented
from workers.inference.protocol import Options
from workers.inference.reading.images import ReadRules
from workers.inference.shapes import masks
from workers.inference.stream.pipeline import segment

FAST = Speed(fixed_ms=1, image_ms=0.5)
SMALL = KINDS[0]


def test_photographs_are_the_same_every_time(tmp_path: Path) -> None:
    one, other = (photographs.write(SMALL, tmp_path / name, 10) for name in ("one", "other"))
    assert [Path(path).read_bytes() for path in one] == [Path(path).read_bytes() for path in other]
    with Image.open(one[0]) as first, Image.open(one[1]) as second:
        assert first.size == second.size == (640, 480)
        assert not np.array_equal(np.asarray(first), np.asarray(second))


def test_the_masks_are_those_of_the_library(tmp_path: Path) -> None:
    paths = photographs.write(SMALL, tmp_path / "images", 2)
    items = [Item(number, path, PROMPTS) for number, path in enumerate(paths)]
    [outcomes] = segment(items, SimulatedSegmenter(Device(0, 0)), ReadRules(), Options())
    results = Sam3ImageProcessor().post_process_instance_segmentation(
        model_output(2), threshold=0.5, mask_threshold=0.5, target_sizes=[(480, 640)] * 2
    )
    for outcome, result in zip(outcomes, results, strict=True):
        assert isinstance(outcome, Segmented)
        [found] = outcome.found
        ours = np.stack([masks.decode(one.rle, 480, 640) for one in found.instances])
        assert np.array_equal(ours, result["masks"].numpy())
        assert all(0.05 <= share <= 0.15 for share in ours.mean(axis=(1, 2)))


def test_every_system_does_the_whole_work_and_gets_its_row() -> None:
    systems = ("ours", "plain script", "DataLoader")
    rows: list[Row] = [*compare(KINDS[:1], FAST, images=16, repeats=2, systems=systems)]
    assert [(row.kind, row.system, row.images) for row in rows] == [("640x480 JPEG", name, 16) for name in systems]
    for row in rows:
        assert row.limit >= 2 * (1 + 8 * 0.5) / 1000  # at least what was asked for; more on a busy machine
        assert row.of_limit < 1
        assert row.fastest <= row.seconds <= row.slowest
        assert 0 <= row.idle < 1
        assert row.cpu_ms is not None
    assert tables(rows).count("simulated") == 1


@pytest.mark.long
def test_a_run_of_several_chunks_goes_through_celery_beside_one_in_process() -> None:
    told = stream_through_celery(SMALL, FAST, chunks=2, chunk=64)
    assert (told.images, told.chunks) == (128, 2)
    assert 0 <= told.idle < 1
    assert told.gap_ms > 0
    assert "simulated" in stream_table([told])
