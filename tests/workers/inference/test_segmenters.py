"""Which code serves a checkpoint is looked up by the family that its config.json names."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from workers.inference import segmenters
from workers.inference.segmenters import ModelUnusable, family_of, named


class OtherFamily:
    """A segmenter of another kind of checkpoint, as a module of its own would hold it."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.folder, self.how = folder, how


def checkpoint(folder: Path, kind: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


def test_a_family_is_added_by_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(segmenters.FAMILIES, "another", f"{__name__}:OtherFamily")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])  # under pytest it is not imported by its name
    folder = checkpoint(tmp_path / "model", "another")
    made: Any = family_of(folder)(folder, model_name="mine", revision=None, device="cpu", dtype="auto")
    assert isinstance(made, OtherFamily)
    assert made.folder == folder
    assert made.how["model_name"] == "mine"


@pytest.mark.parametrize("kind", ["sam3", "sam3_lite_text", "sam3_video"])
def test_all_kinds_of_sam3_are_served_by_one_segmenter(tmp_path: Path, kind: str) -> None:
    assert family_of(checkpoint(tmp_path / "model", kind)) is named("workers.inference.models.sam3_model:Sam3Segmenter")


def test_a_checkpoint_of_an_unknown_family_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="of type bert; we have code for grounding-dino") as refused:
        family_of(checkpoint(tmp_path / "model", "bert"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["sam2", "sam2_video"])
def test_a_pair_is_one_family(tmp_path: Path, kind: str) -> None:
    folders = checkpoint(tmp_path / "boxes", "grounding-dino"), checkpoint(tmp_path / "masks", kind)
    assert family_of(*folders) is named("workers.inference.models.grounded_sam2:GroundedSam2Segmenter")
    with pytest.raises(ModelUnusable, match=rf"of type {kind}\+grounding-dino; we have code for"):
        family_of(*reversed(folders))


def test_a_folder_without_a_config_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"no usable config\.json"):
        family_of(tmp_path)
