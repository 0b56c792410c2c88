"""The two parts of a forward pass, compiled: the same answers, whatever a batch is filled up with; and when they fail.

Most tests compile with a backend that runs the traced graph as it is: it shows all but the kernels. Those need a C++
compiler here, as they need a C compiler on a GPU.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor

from workers.inference.kept_kernels import CACHE_FOLDER
from workers.inference.models.sam3_heads import Heads
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.models.sam3_parts import Compiled, Plain
from workers.inference.protocol import Options, OutOfMemory, Pixels
from workers.inference.reading.images import RGB

PLAIN, COMPILED = Options(threshold=0.5, score_floor=0.3), Options(threshold=0.5, score_floor=0.3, compiled=True)
ASKED = [("cat",), ("dog",), ("car",), ("sky",)]  # of one length, so that their rows have the order of the images
MOST = 1e-4  # difference of a score, a coordinate (in fractions of the image) and a mask's logit


class Graphs:
    """A backend of torch's compiler that runs each graph as it was traced, and counts them."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.made += 1
        return graph.forward  # type: ignore[no-any-return]


def no_backend(graph: Any, inputs: Any) -> Callable[..., Any]:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore lines")


@pytest.fixture(autouse=True)
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_FOLDER, raising=False)


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    return Graphs()


def shallow(checkpoint: Path, backbone: int = 2) -> Sam3Segmenter:
    """With few layers, one of each kind: the compiler takes its seconds for each further one.

    The first layer of the backbone looks at windows of the image, the second one at all of it.
    """
    segmenter = Sam3Segmenter(checkpoint, model_name="tiny")
    model = segmenter._model
    del model.vision_encoder.backbone.layers[backbone:], model.detr_encoder.layers[1:], model.detr_decoder.layers[1:]
    return segmenter


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path, graphs: Graphs) -> Iterator[Sam3Segmenter]:
    segmenter = shallow(checkpoint)
    segmenter._compiled = Compiled(segmenter._plain, "tiny", graphs)
    torch.compiler.reset()
    yield segmenter
    torch.compiler.reset()


@pytest.fixture(scope="module")
def batch(segmenter: Sam3Segmenter, photographs: dict[str, RGB]) -> list[Pixels]:
    return [segmenter.preprocess(pixels) for pixels in photographs.values()]


@pytest.fixture(scope="module")
def full(segmenter: Sam3Segmenter, batch: list[Pixels]) -> Heads:
    """What the first batch gave: four images with a prompt each, which is the size that all others are filled up to."""
    return heads(segmenter, batch, ASKED, COMPILED)


def heads(
    segmenter: Sam3Segmenter, batch: Sequence[Pixels], asked: Sequence[tuple[str, ...]], options: Options
) -> Heads:
    raw = segmenter.predict(batch, asked, options)
    assert raw.last is not None
    return raw.last


def row(heads: Heads, image: int) -> tuple[torch.Tensor, torch.Tensor]:
    place = heads.rows.index((image, 0))
    return heads.numbers[place], heads.masks[place]


def furthest(one: Heads, other: Heads) -> float:
    pairs = [(row(one, image), row(other, image)) for image, _ in one.rows]
    return max(float((a - b).abs().max()) for left, right in pairs for a, b in zip(left, right, strict=True))


def test_a_compiled_batch_gives_what_the_same_batch_gives_uncompiled(
    segmenter: Sam3Segmenter, batch: list[Pixels], full: Heads
) -> None:
    assert furthest(full, heads(segmenter, batch, ASKED, PLAIN)) <= MOST


@pytest.mark.parametrize("images", [1, 3])
def test_what_a_batch_is_filled_up_with_changes_no_bit_of_its_answers(
    segmenter: Sam3Segmenter, batch: list[Pixels], full: Heads, images: int
) -> None:
    part = heads(segmenter, batch[:images], ASKED[:images], COMPILED)
    assert sorted(part.rows) == [(image, 0) for image in range(images)]
    assert len(part.numbers) == len(part.masks) == images
    for image in range(images):
        assert all(map(torch.equal, row(part, image), row(full, image)))


def test_prompts_beyond_the_size_are_further_runs_of_the_heads_and_give_the_same(
    segmenter: Sam3Segmenter, batch: list[Pixels], full: Heads
) -> None:
    asked = [("a red circle", "person"), ("sky", "tree"), ("house", "a cup")]
    answers = [
        segmenter.postprocess(segmenter.predict(batch[:3], asked, options), range(3), options)
        for options in (COMPILED, PLAIN)
    ]
    for one, other in zip(*answers, strict=True):
        for found, expected in zip(one, other, strict=True):
            assert len(found.instances) == len(expected.instances)
            assert found.presence == pytest.approx(expected.presence, abs=MOST)
            for mine, theirs in zip(found.instances, expected.instances, strict=True):
                assert mine.score == pytest.approx(theirs.score, abs=MOST)
                assert mine.area == pytest.approx(theirs.area, rel=1e-3, abs=2)


@pytest.mark.usefixtures("full")
def test_all_batches_up_to_the_first_ones_size_share_two_graphs_and_larger_ones_run_uncompiled(
    segmenter: Sam3Segmenter, batch: list[Pixels], graphs: Graphs
) -> None:
    """However many prompts they ask, of whatever lengths."""
    for images, asked in ((4, [("cat",)] * 4), (2, [("cat", "dog", "sky"), ("a red circle",)]), (1, [("person",)])):
        segmenter.predict(batch[:images], asked, COMPILED)
    segmenter.predict([*batch, batch[0]], [("cat",)] * 5, COMPILED)
    assert graphs.made == 2
    assert segmenter.facts.compiles


def test_a_model_that_cannot_be_compiled_runs_as_it_is_and_says_so_in_one_line(
    checkpoint: Path, batch: list[Pixels], caplog: pytest.LogCaptureFixture
) -> None:
    segmenter = shallow(checkpoint)
    segmenter._compiled = Compiled(segmenter._plain, "tiny", no_backend)
    assert segmenter.facts.compiles
    with caplog.at_level(logging.WARNING):
        answers = [heads(segmenter, batch[:2], ASKED[:2], COMPILED) for _ in range(2)]
    plain = heads(segmenter, batch[:2], ASKED[:2], PLAIN)
    assert all(furthest(one, plain) <= MOST for one in answers)
    assert not segmenter.facts.compiles
    [line] = caplog.messages
    assert line.startswith("the model cannot be compiled, so it runs as it is: ")
    assert "Failed to find C compiler" in line
    assert "\n" not in line


class Room:
    """Parts that only hold so many images, and note how many they were given."""

    def __init__(self, images: int) -> None:
        self.most = images
        self.given: list[int] = []

    def see(self, pixels: torch.Tensor) -> Any:
        self.given.append(len(pixels))
        if len(pixels) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return (torch.zeros(len(pixels), 1, 1, 1),)

    def find(self, features: Any, text: torch.Tensor, mask: torch.Tensor | None) -> Any:
        return torch.zeros(len(text), 6), torch.zeros(len(text), 1, 1, 1)


@pytest.fixture
def cramped_parts(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Sam3Segmenter, Room, Room]:
    """A segmenter with its plain and its compiled parts."""
    segmenter = Sam3Segmenter(checkpoint, model_name="tiny")
    plain, compiled = Room(8), Room(4)
    monkeypatch.setattr(segmenter, "_plain", plain)
    monkeypatch.setattr(segmenter._compiled, "see", compiled.see)
    monkeypatch.setattr(segmenter._compiled, "find", compiled.find)
    return segmenter, plain, compiled


def test_a_full_batch_that_does_not_fit_compiled_is_said_to_and_the_next_size_is_that_of_the_next_batch(
    cramped_parts: tuple[Sam3Segmenter, Room, Room], batch: list[Pixels]
) -> None:
    segmenter, plain, compiled = cramped_parts
    with pytest.raises(OutOfMemory):
        segmenter.predict(batch * 2, ASKED * 2, COMPILED)
    for images in (4, 3):
        segmenter.predict(batch[:images], ASKED[:images], COMPILED)
    assert (compiled.given, plain.given) == ([8, 4, 4], [])


def test_a_batch_that_does_not_fit_only_because_it_is_filled_up_runs_as_it_is(
    cramped_parts: tuple[Sam3Segmenter, Room, Room], batch: list[Pixels]
) -> None:
    segmenter, plain, compiled = cramped_parts
    segmenter.predict(batch, ASKED, COMPILED)
    compiled.most = 3  # another process has taken memory
    segmenter.predict(batch[:1], ASKED[:1], COMPILED)
    compiled.most = 4
    segmenter.predict(batch[:2], ASKED[:2], COMPILED)
    assert (compiled.given, plain.given) == ([4, 4, 4], [1])


def test_one_image_that_fits_only_uncompiled_runs_uncompiled_and_so_do_later_ones(
    cramped_parts: tuple[Sam3Segmenter, Room, Room], batch: list[Pixels], caplog: pytest.LogCaptureFixture
) -> None:
    segmenter, plain, compiled = cramped_parts
    compiled.most = 0
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            segmenter.predict(batch[:1], ASKED[:1], COMPILED)
    assert (compiled.given, plain.given) == ([1], [1, 1])
    assert not segmenter.facts.compiles
    assert caplog.messages == [
        "the model cannot be compiled, so it runs as it is: there is no memory for it, even for one image"
    ]


def doubled(model: Any, numbers: torch.Tensor) -> torch.Tensor:
    return 2 * numbers


def test_models_are_compiled_one_after_the_other_for_as_long_as_a_process_lives() -> None:
    """torch compiles one and the same function eight times and no more."""
    for images in range(1, dynamo.recompile_limit + 2):
        compiled = Compiled(Plain(None), "tiny", Graphs())
        compiled.size_for(images)
        assert compiled._run(doubled, torch.ones(images)).sum() == 2 * images
        assert compiled.works


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++ (Debian: apt install g++)")
def test_the_kernels_that_torch_makes_for_a_cpu_give_the_same_answers(
    checkpoint: Path, batch: list[Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_FOLDER, str(tmp_path))
    segmenter = shallow(checkpoint, backbone=1)  # the compiler takes many seconds for the kernels of a further one
    monkeypatch.setattr(inductor, "compile_threads", 1)  # more are processes, which import torch for themselves
    monkeypatch.setattr(inductor.cpp, "simdlen", 1)  # g++ takes half as long again for kernels of vectors
    torch.compiler.reset()
    compiled, plain = (heads(segmenter, batch[:2], ASKED[:2], options) for options in (COMPILED, PLAIN))
    assert segmenter.facts.compiles
    assert len(list(tmp_path.glob("sam3-*.made"))) == 2
    assert 0 < furthest(compiled, plain) <= MOST
    assert np.isfinite(compiled.numbers.numpy()).all()
