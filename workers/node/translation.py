"""Turns values of the database into those of inference, and back, as neither knows the other. Opens no image."""

from db.claimed import ClaimedImage
from db.outcomes import ImageDone, ImageFailed, Outcome
from db.values import FoundInstance, PromptResult
from db.views.run_views import RunView
from workers.errors import ErrorClass
from workers.inference.answers import Found, Instance
from workers.inference.boxes import Box
from workers.inference.items import Before, Item, Unreadable
from workers.inference.items import Outcome as Seen
from workers.inference.protocol import Options
from workers.inference.tiles import Tiling
from workers.places import location
from workers.places.location import FileSeen


def found_of(result: PromptResult) -> Found:
    """What a prompt found in an image, of its result in the database."""
    instances = tuple(Instance(one.score, one.box, one.area, one.rle) for one in result.instances)
    return Found(result.presence, instances, result.capped)


def options_of(run: RunView, compiled: bool) -> Options:
    """How the images of the run are computed: its frozen settings, and whether with `compiled` kernels."""
    return Options(
        compiled=compiled,
        threshold=run.frozen.threshold,
        mask_threshold=run.frozen.mask_threshold,
        score_floor=run.frozen.score_floor,
        mask_rule="meta" if run.frozen.mask_rule == "meta" else "library",
        points_per_side=run.frozen.points_per_side,
    )


def refused_item(item: Item, bad: dict[str, str]) -> ImageFailed:
    """The outcome of an image with prompts that the model refuses; `bad` gives the reasons, by prompt."""
    reasons = [f"{prompt!r}: {bad[prompt]}" for prompt in item.prompts if prompt in bad]
    return ImageFailed(item.id, ErrorClass.PROMPT, "; ".join(reasons))


def item_of(run: RunView, image: ClaimedImage, texts: dict[int, str]) -> Item:
    """What inference needs of an image of the run; `texts` are those of its prompts, by their ids."""
    prompts = tuple(texts[prompt_id] for prompt_id in image.prompt_ids)
    place, before = location.place(run.source.root, image.path), _before(image, texts)
    boxes = tuple(Box(*box) for box in image.boxes)
    return Item(image.id, place, prompts, _tiling(run, image), image.again, boxes, before)


def _before(image: ClaimedImage, texts: dict[int, str]) -> Before | None:
    kept = image.kept
    if kept is None or kept.file_size is None or kept.file_mtime_ns is None:
        return None
    prompts = tuple(texts[prompt_id] for prompt_id in kept.prompt_ids)
    return Before(FileSeen(kept.file_size, kept.file_mtime_ns), prompts)


def answered_prompts(image: ClaimedImage, item: Item, outcome: Seen) -> tuple[int, ...]:
    """The ids of the prompts that the outcome of an item answers, in the order of its results."""
    if image.kept is None or outcome.file is None or item.asked_of(outcome.file) is item:
        return image.prompt_ids
    return image.kept.prompt_ids


def as_it_is(image: ClaimedImage) -> ImageDone:
    """The outcome of an image whose added prompts were all dropped again."""
    assert image.kept is not None
    return ImageDone(image.id, image.kept.width, image.kept.height, (), warning=image.kept.warning)


def _tiling(run: RunView, image: ClaimedImage) -> Tiling | None:
    if image.tiling is not None:
        return Tiling.of(image.tiling)
    return None if run.frozen.tile is None else Tiling.chosen(run.frozen.tile, run.frozen.overlap)


def outcome_of(outcome: Seen, prompt_ids: tuple[int, ...]) -> Outcome:
    """The outcome for the database of one of inference, whose results are those of `prompt_ids`."""
    size, mtime_ns = (outcome.file.size, outcome.file.mtime_ns) if outcome.file else (None, None)
    if isinstance(outcome, Unreadable):
        # A decoder may quote bytes of the file in its message, and PostgreSQL stores no NUL.
        return ImageFailed(outcome.id, outcome.error_class, outcome.message.replace("\0", "\\0"), size, mtime_ns)
    results = tuple(
        PromptResult(
            prompt_id,
            found.presence,
            found.capped,
            tuple(FoundInstance(each.score, each.box, each.area, each.rle) for each in found.instances),
        )
        for prompt_id, found in zip(prompt_ids, outcome.found, strict=True)
    )
    return ImageDone(
        outcome.id, outcome.width, outcome.height, results, size, mtime_ns, outcome.warning, outcome.content
    )
