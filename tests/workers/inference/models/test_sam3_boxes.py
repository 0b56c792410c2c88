"""Images with boxes in one batch with others: each row is what the library's loop gives for it alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import Sam3Model, Sam3Processor

from workers.errors import ErrorClass
from workers.inference.boxes import Box, fault
from workers.inference.items import Item, Segmented, Unreadable
from workers.inference.models.sam3_heads import Heads
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options, Pixels
from workers.inference.reading.images import RGB, ReadRules
from workers.inference.segmenters import Precision
from workers.inference.stream.pipeline import Pace, segment
from workers.inference.stream.repeats import content_of
from workers.inference.tiles import Tiling

OPTIONS = Options(threshold=0.5, score_floor=0.3)
MOST = 1e-5  # of a score, of a coordinate in fractions of the image, and of the probability of a mask's pixel
RIGHT, LEFT = Box(200.5, 40, 330, 250, True), Box(5, 30, 150.25, 180, True)
NOT_LEFT = RIGHT._replace(x1=3.0, x2=120.0, positive=False)


@dataclass(frozen=True)
class Asked:
    """What is asked of one photograph; without a text the library's processor takes its own."""

    photograph: str
    text: str | None
    boxes: tuple[Box, ...] = ()


ALL_KINDS = (
    Asked("astronaut", "person"),
    Asked("astronaut", "person", (RIGHT,)),
    Asked("coffee", None, (LEFT, RIGHT)),
    Asked("chelsea", "a red circle", (RIGHT, NOT_LEFT)),
    Asked("rocket", "a red circle"),
    Asked("coffee", "cat", (NOT_LEFT,)),
    Asked("chelsea", None, (LEFT, RIGHT, NOT_LEFT)),
    Asked("astronaut", "cat"),
)


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Sam3Segmenter:
    return Sam3Segmenter(checkpoint, model_name="tiny")


@dataclass(frozen=True)
class Library:
    """The plain loop: one image, with what is asked of it, at a time."""

    model: Any
    processor: Any

    @torch.no_grad()
    def __call__(self, pixels: RGB, asked: Asked) -> tuple[torch.Tensor, torch.Tensor]:
        boxes: dict[str, Any] = {}
        if asked.boxes:
            boxes["input_boxes"] = [[list(box[:4]) for box in asked.boxes]]
            boxes["input_boxes_labels"] = [[int(box.positive) for box in asked.boxes]]
        given = self.processor(images=Image.fromarray(pixels), text=asked.text, **boxes, return_tensors="pt")
        output = self.model(**given)
        presence = output.presence_logits.sigmoid()
        scores = output.pred_logits.sigmoid() * presence
        numbers = torch.cat((presence, scores, output.pred_boxes.flatten(1)), dim=1)
        return numbers[0], output.pred_masks.sigmoid()[0]


@pytest.fixture(scope="module")
def library(checkpoint: Path) -> Library:
    model = Sam3Model.from_pretrained(checkpoint, dtype=torch.float32)
    return Library(model, Sam3Processor.from_pretrained(checkpoint))


def prepared(
    segmenter: Sam3Segmenter, photographs: dict[str, RGB], asked: Sequence[Asked]
) -> tuple[list[Pixels], list[tuple[str, ...]]]:
    """As a stream makes them: boxes without a text come with the prompt that the library would take."""
    batch = [replace(segmenter.preprocess(photographs[one.photograph]), boxes=one.boxes) for one in asked]
    return batch, [(one.text or "visual",) for one in asked]


@contextmanager
def kept_heads(segmenter: Sam3Segmenter, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Heads]]:
    """The answers of all runs of the heads, whole."""
    made: list[Heads] = []
    with monkeypatch.context() as patched:
        for name in ("_run_heads", "_run_with_boxes"):
            real = getattr(segmenter, name)

            def noted(*args: Any, real: Callable[..., Heads] = real) -> Heads:
                made.append(real(*args))
                return made[-1]

            patched.setattr(segmenter, name, noted)
        yield made


@pytest.mark.parametrize("batch_size", [8, 3])
def test_a_batch_that_mixes_all_kinds_of_rows_is_the_librarys_loop(
    segmenter: Sam3Segmenter,
    library: Library,
    photographs: dict[str, RGB],
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    for start in range(0, len(ALL_KINDS), batch_size):
        asked = ALL_KINDS[start : start + batch_size]
        batch, prompts = prepared(segmenter, photographs, asked)
        with kept_heads(segmenter, monkeypatch) as made:
            segmenter.predict(batch, prompts, OPTIONS)
        compared = 0
        for heads in made:
            for (image, _), numbers, masks in zip(heads.rows, heads.numbers, heads.masks, strict=True):
                expected, probabilities = library(photographs[asked[image].photograph], asked[image])
                assert (numbers - expected).abs().max() <= MOST
                assert (masks.sigmoid() - probabilities).abs().max() <= MOST
                compared += 1
        assert compared == len(asked)


def test_boxes_change_what_is_found_so_equal_answers_are_no_accident(
    library: Library, photographs: dict[str, RGB]
) -> None:
    picture = photographs["astronaut"]
    answers = [library(picture, Asked("astronaut", "person", boxes))[0] for boxes in ((), (RIGHT,), (LEFT,))]
    answers.append(library(picture, Asked("astronaut", "person", (RIGHT._replace(positive=False),)))[0])
    for number, one in enumerate(answers):
        assert all((one - other).abs().max() > 100 * MOST for other in answers[:number])


def test_boxes_belong_to_each_prompt_of_their_image(
    segmenter: Sam3Segmenter, library: Library, photographs: dict[str, RGB]
) -> None:
    batch, _ = prepared(segmenter, photographs, [Asked("coffee", None, (RIGHT,)), Asked("chelsea", None)])
    prompts = [("cat", "a red circle"), ("person",)]
    of_boxes, of_text = segmenter.postprocess(segmenter.predict(batch, prompts, OPTIONS), range(2), OPTIONS)
    assert [len(of_boxes), len(of_text)] == [2, 1]
    for text, found in zip(prompts[0], of_boxes, strict=True):
        expected, _ = library(photographs["coffee"], Asked("coffee", text, (RIGHT,)))
        assert found.presence == pytest.approx(float(expected[0]), abs=MOST)


@pytest.mark.parametrize("dtype", ["mixed", "bf16"])
def test_boxes_are_taken_in_lower_precisions_too(
    checkpoint: Path, photographs: dict[str, RGB], dtype: Precision
) -> None:
    segmenter = Sam3Segmenter(checkpoint, model_name="tiny", dtype=dtype)
    batch, prompts = prepared(segmenter, photographs, ALL_KINDS[:3])
    answers = segmenter.postprocess(segmenter.predict(batch, prompts, OPTIONS), range(3), OPTIONS)
    assert all(found.instances for of_image in answers for found in of_image)


# As an image of a run


def shown(path: Path, box: Box, segmenter: Sam3Segmenter, rules: ReadRules) -> Any:
    items = [Item(1, str(path), ("visual",), boxes=(box,))]
    [[outcome]] = segment(items, segmenter, rules, OPTIONS, Pace(batch_size=2, threads=1))
    return outcome


def test_boxes_count_in_the_pixels_of_the_upright_image_and_raw_ones_in_those_of_the_file(
    segmenter: Sam3Segmenter, library: Library, photographs: dict[str, RGB], tmp_path: Path
) -> None:
    """A photograph that a camera stored lying: 600 x 400 pixels are upright, 400 x 600 in the file."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees to the right
    path = tmp_path / "lying.jpg"
    Image.fromarray(photographs["coffee"]).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    with Image.open(path) as lying:
        assert lying.size == (400, 600)
        upright = np.asarray(ImageOps.exif_transpose(lying))
    box = Box(420, 30, 590, 350, True)

    seen = shown(path, box, segmenter, ReadRules())
    assert isinstance(seen, Segmented)
    assert (seen.width, seen.height) == (600, 400)
    expected, _ = library(upright, Asked("coffee", None, (box,)))
    assert seen.found[0].presence == pytest.approx(float(expected[0]), abs=MOST)

    beyond = shown(path, box, segmenter, ReadRules(orientation="raw"))
    assert isinstance(beyond, Unreadable)
    assert beyond.error_class == ErrorClass.BAD_BOX
    assert beyond.message == (
        "the box 420, 30, 590, 350 reaches beyond the image, which has 400 x 600 pixels as it is segmented"
    )
    assert beyond.file is not None


def test_a_wrong_box_is_an_error_of_its_image_alone(segmenter: Sam3Segmenter, photograph_files: list[str]) -> None:
    far = Box(10, 10, 5000, 100, True)
    items = [Item(number, path, ("person",)) for number, path in enumerate(photograph_files[:3])]
    items[1] = replace(items[1], boxes=(RIGHT, far))
    [outcomes] = segment(items, segmenter, ReadRules(), OPTIONS, Pace(batch_size=3, threads=1))
    assert [type(outcome) for outcome in outcomes] == [Segmented, Unreadable, Segmented]


@pytest.mark.parametrize(
    ("box", "fits"),
    [
        (Box(0, 0, 640, 480, True), True),
        (Box(-1, -1, 641, 481, False), True),
        (Box(-1.5, 0, 640, 480, True), False),
        (Box(0, -2, 640, 480, False), False),
        (Box(0, 0, 641.5, 480, True), False),
        (Box(0, 0, 480, 640, True), False),
    ],
)
def test_a_box_may_reach_one_pixel_beyond_its_image(box: Box, fits: bool) -> None:
    assert (fault([Box(1, 1, 2, 2, True), box], 640, 480) is None) is fits


def test_the_same_file_with_other_boxes_is_other_content() -> None:
    digest = bytes(range(16))
    asked = [(), (RIGHT,), (RIGHT._replace(positive=False),), (RIGHT, LEFT), (LEFT,)]
    contents = {content_of(digest, ("cat",), None, boxes) for boxes in asked}
    assert len(contents | {content_of(digest, ("cat",), Tiling())}) == len(asked) + 1


def test_images_of_equal_content_are_computed_once_for_each_of_their_boxes(
    segmenter: Sam3Segmenter, photograph_files: list[str]
) -> None:
    items = [
        Item(number, photograph_files[0], ("cat",), boxes=boxes) for number, boxes in enumerate([(), (RIGHT,)] * 2)
    ]
    batches = segment(items, segmenter, ReadRules(digests=True), OPTIONS, Pace(batch_size=4, threads=1))
    plain, boxed, plain_again, boxed_again = (outcome for batch in batches for outcome in batch)
    assert isinstance(plain, Segmented)
    assert isinstance(boxed, Segmented)
    assert plain.found[0].presence != boxed.found[0].presence
    assert replace(plain_again, id=0) == plain
    assert replace(boxed_again, id=1) == boxed


def test_rows_without_boxes_are_asked_in_the_same_runs_as_before(
    segmenter: Sam3Segmenter, photographs: dict[str, RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, prompts = prepared(segmenter, photographs, ALL_KINDS)
    with kept_heads(segmenter, monkeypatch) as made:
        segmenter.predict(batch, prompts, OPTIONS)
    assert [sorted(image for image, _ in heads.rows) for heads in made] == [[0, 4, 7], [1, 2, 3, 5, 6]]


def test_compiled_kernels_see_the_images_but_no_boxes(
    checkpoint: Path, photographs: dict[str, RGB], monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Sam3Segmenter(checkpoint, model_name="tiny")
    ran: list[str] = []

    def as_it_is(part: Any, *args: Any) -> Any:
        ran.append(part.__name__)
        return part(segmenter._model, *args)

    monkeypatch.setattr(segmenter._compiled, "_run", as_it_is)
    batch, prompts = prepared(segmenter, photographs, ALL_KINDS[:3])
    plain = segmenter.postprocess(segmenter.predict(batch, prompts, OPTIONS), range(3), OPTIONS)
    compiled = replace(OPTIONS, compiled=True)
    made = segmenter.postprocess(segmenter.predict(batch, prompts, compiled), range(3), compiled)
    assert ran == ["see", "find"]
    for (one,), (other,) in zip(plain, made, strict=True):
        assert one.presence == pytest.approx(other.presence, abs=MOST)
        assert np.allclose([each.box for each in one.instances], [each.box for each in other.instances], atol=0.05)
