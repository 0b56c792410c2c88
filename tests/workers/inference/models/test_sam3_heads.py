"""From the heads' output to instances, against the library's own post-processing. No model runs."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.inference.answers import Found
from workers.inference.models.sam3_heads import Heads, keep
from workers.inference.models.torch_kept import found_in, to_host
from workers.inference.protocol import Options
from workers.inference.shapes import masks
from workers.tiny.architecture import new_processor

OPTIONS = Options(threshold=0.3, score_floor=0.3)


@cache
def processor() -> Any:
    """The library's. Not made when this file is read: each test process reads it, and one or two make it."""
    return new_processor().image_processor


def ours(output: SimpleNamespace, height: int, width: int) -> Found:
    presence = output.presence_logits.sigmoid()
    numbers = torch.cat((presence, output.pred_logits.sigmoid() * presence, output.pred_boxes.flatten(1)), dim=1)
    (kept,) = keep(Heads([(0, 0)], numbers, output.pred_masks), OPTIONS.floor).values()
    (small,) = to_host([kept], OPTIONS)
    return found_in(kept, small, (height, width), OPTIONS)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 6),
    side=st.sampled_from([1, 2, 9, 40, 72]),
    coarse=st.booleans(),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
)
def test_any_logits_give_the_librarys_masks_scores_and_boxes(
    seed: int, queries: int, side: int, coarse: bool, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, queries, *((3, 3) if coarse else (side, side)), generator=generator) * 6
    logits += torch.randn(1, queries, 1, 1, generator=generator) * 6  # so that some masks are empty, and some full
    output = SimpleNamespace(
        pred_masks=torch.nn.functional.interpolate(logits, size=(side, side), mode="bicubic"),
        pred_logits=torch.randn(1, queries, generator=generator) * 2,
        pred_boxes=torch.rand(1, queries, 4, generator=generator),
        presence_logits=torch.tensor([[4.0]]),
    )
    found = ours(output, *size)
    (theirs,) = processor().post_process_instance_segmentation(output, OPTIONS.threshold, target_sizes=[size])
    order = theirs["scores"].argsort(descending=True, stable=True)
    assert [one.score for one in found.instances] == theirs["scores"][order].tolist()
    kept = output.pred_logits.sigmoid()[0] * output.presence_logits.sigmoid()[0] > OPTIONS.threshold
    probabilities = output.pred_masks.sigmoid().double()
    exact = torch.nn.functional.interpolate(probabilities, size=size, mode="bilinear")[0, kept][order].numpy()
    for number, instance in enumerate(found.instances):
        np.testing.assert_allclose(instance.box, theirs["boxes"][order[number]], atol=1e-4)
        mask = masks.decode(instance.rle, *size)
        differ = mask != theirs["masks"][order[number]].numpy().astype(bool)
        # Where the probability is the threshold itself, rounding decides.
        assert np.abs(exact[number][differ] - OPTIONS.mask_threshold).max(initial=0) < 1e-6
        assert instance.area == mask.sum()
