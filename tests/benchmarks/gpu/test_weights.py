"""Random weights that find things, here in the tiny size."""

from pathlib import Path

from benchmarks import photographs
from benchmarks.gpu import parity, weights
from benchmarks.gpu.ours import outcomes
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options
from workers.tiny.architecture import configuration


def test_a_model_of_random_weights_finds_things_in_photographs(tmp_path: Path) -> None:
    weights.write_checkpoint(tmp_path / "model", "cpu", configuration())
    segmenter = Sam3Segmenter(tmp_path / "model", model_name="random")
    found = outcomes(
        segmenter,
        photographs.write(photographs.FULL_HD, tmp_path / "seen", 4),
        4,
        Options(threshold=0.5, score_floor=0.1),
    )
    instances = [instance for outcome in found for instance in outcome.found[0].instances]
    assert len({instance.score for instance in instances}) > parity.COMPARED
    assert any(instance.score > 0.5 and 0.001 < instance.area / (1920 * 1080) < 0.6 for instance in instances)


def test_the_same_seed_makes_the_same_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        weights.write_checkpoint(tmp_path / name, "cpu", configuration())
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
