"""The judge of chaos: pictures give another answer for each kind of run, and one that is not a run's own is seen."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.answers import Answer, Recorded, alone, strange
from tests.chaos.kinds import KINDS, TILES, Kind
from tests.chaos.models import FRAMES, SHAPES
from tests.chaos.pictures import boxes_of, is_large, write_images

SOME = tuple(f"{row:04}.png" for row in (1, 2, 5, 11, 13, 20, 22, 33, 73))


@pytest.fixture(autouse=True)
def _torch_of_other_tests_is_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of chaos refuse to run in a process that has loaded torch, as other tests of this process may have."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("pictures") / "in").with_suffix("")


def run_of(folder: Path, answers: dict[str, Answer]) -> list[Recorded]:
    """A run's images as the database would have them; here none is cut."""
    return [
        Recorded(name, None, ((folder / name).stat().st_size, (folder / name).stat().st_mtime_ns), answer)
        for name, answer in answers.items()
    ]


def test_each_kind_of_run_gives_a_large_picture_another_answer(folder: Path) -> None:
    large = [name for name in SOME if is_large(name)]
    answers = [alone(folder, SOME, kind) for kind in KINDS]

    for name in SOME:
        different = {str(of_kind[name]) for of_kind in answers}
        of_a_small_one = 3 if boxes_of(name) else 2  # to which tiles do nothing
        assert len(different) == (len(KINDS) if name in large else of_a_small_one), name
    whole, cut = (alone(folder, large, Kind(SHAPES, tiling)) for tiling in (None, TILES))
    for name in large:
        [(_, _, is_capped, [_])], [(_, _, still, found)] = whole[name][2:], cut[name][2:]
        assert (is_capped, still) == (True, False)
        assert len(found) > 1


def test_the_copies_have_equal_bytes_and_all_others_an_answer_of_their_own(folder: Path) -> None:
    answers = alone(folder, SOME, Kind(SHAPES))

    assert (folder / "0005.png").read_bytes() == (folder / "0020.png").read_bytes()
    assert answers["0005.png"] == answers["0020.png"]
    assert len({str(answer) for answer in answers.values()}) == len(SOME) - 1


def test_answers_of_another_picture_model_or_file_are_seen(folder: Path) -> None:
    right = run_of(folder, alone(folder, SOME, Kind(SHAPES)))
    first, second, *others = right
    assert list(strange("run1", folder, right, True)) == []

    swapped = [replace(first, answer=second.answer), replace(second, answer=first.answer), *others]
    assert "2 images have another answer than alone: ['0001.png', '0002.png']" in next(
        strange("run1", folder, swapped, True)
    )
    others_model = run_of(folder, alone(folder, SOME, Kind(FRAMES)))
    assert f"{len(SOME)} images have another answer" in next(strange("run1", folder, others_model, True))
    old = [replace(first, file=(1, 1)), *right[1:]]
    assert list(strange("run1", folder, old, True)) == ["run1: 1 results are of pictures that were changed since"]
    assert list(strange("run1", folder, old, False)) == []
