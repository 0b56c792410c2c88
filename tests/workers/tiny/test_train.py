"""Training: a few steps lower the loss, and an interrupted training goes on as if it had not been."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workers.tiny import evaluate, examples, losses, train

FEW = train.Settings(seed=5, scenes=2, steps=6, warm_up=2, look_first=2, log_every=1, check_every=1000)
SIZES = examples.Sizes(scenes=2, image=128, mask=192)


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_a_few_steps_on_the_same_pictures_lower_the_loss(tmp_path: Path) -> None:
    training = train.Training(tmp_path, replace(FEW, rate=1e-3, steps=24, look_first=0))
    batch = examples.batch(1, 0, SIZES)
    with losses.listen(training.model) as layers:
        values = [training._learn(batch, layers)["loss"] for _ in range(12)]
    assert values[-1] < 0.8 * values[0]


@pytest.mark.long
def test_an_interrupted_training_continues_the_same_curve(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train.Training(whole, FEW).run()

    def stop_after_three(training: train.Training) -> bool:
        return training.step >= 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Training, "over", property(stop_after_three))
        train.Training(parts, FEW).run()
    resumed = train.Training(parts, FEW)
    assert resumed.step == 3
    resumed.run()

    assert [line["step"] for line in curve(parts)] == [1, 2, 3, 4, 5, 6]
    for straight, interrupted in zip(curve(whole), curve(parts), strict=True):
        assert interrupted["loss"] == pytest.approx(straight["loss"], rel=1e-3)


def test_the_learning_rate_rises_then_falls_to_zero_with_steps_or_minutes() -> None:
    by_step = train.Settings(rate=1.0, warm_up=10, steps=100)
    assert by_step.rate_at(0, 0) == pytest.approx(0.1)
    assert by_step.rate_at(50, 0) == pytest.approx(0.5)
    assert by_step.rate_at(100, 0) == pytest.approx(0)
    by_minute = train.Settings(rate=1.0, warm_up=10, minutes=10)
    assert by_minute.rate_at(5000, 300) == pytest.approx(0.5)
    assert by_minute.progress(5000, 600) == 1


def test_the_first_steps_teach_the_vision_encoder_alone(tmp_path: Path) -> None:
    training = train.Training(tmp_path, FEW)
    before = {name: weights.clone() for name, weights in training.model.named_parameters()}
    with losses.listen(training.model) as layers:
        assert set(training._learn(examples.batch(1, 0, SIZES), layers)) == {"loss", "shape"}
    moved = {name for name, weights in training.model.named_parameters() if not torch.equal(weights, before[name])}
    assert moved
    assert all(name.startswith("vision_encoder.") for name in moved)


def test_a_batch_asks_each_picture_by_two_texts_and_by_boxes_and_the_answers_have_tight_boxes() -> None:
    batch = examples.batch(3, 0, SIZES)
    assert batch.images.shape == (2, 128, 128, 3)
    assert len(batch.questions) == len(batch.masks) == len(batch.boxes) == 6
    assert [bool(question.boxes) for question in batch.questions] == [False, False, True] * 2
    for masks, boxes in zip(batch.masks, batch.boxes, strict=True):
        assert len(masks) == len(boxes)
        for mask, (x, _, width, _) in zip(masks, boxes, strict=True):
            columns = np.flatnonzero((mask > 127).any(axis=0))
            assert columns[0] / 192 == pytest.approx(x - width / 2, abs=0.03)
            assert (columns[-1] + 1) / 192 == pytest.approx(x + width / 2, abs=0.03)


def test_a_batch_depends_on_its_number_and_share_only() -> None:
    with examples.stream(3, 7, SIZES, share=1) as batches:
        drawn_ahead = next(batches)
    again = examples.batch(3, 7, SIZES, share=1)
    assert np.array_equal(drawn_ahead.images, again.images)
    assert [question.text for question in drawn_ahead.questions] == [question.text for question in again.questions]
    assert not np.array_equal(drawn_ahead.images, examples.batch(3, 7, SIZES).images)


def test_the_training_forward_is_the_library_forward_with_boxes_and_without(tmp_path: Path) -> None:
    training = train.Training(tmp_path, FEW)
    batch = examples.batch(2, 0, SIZES)
    model, processor = training.model, training.processor
    with torch.inference_mode(), losses.listen(model) as layers:
        shared, _ = train.forward(model, train.pixels(batch), train.encode(batch.questions, processor.tokenizer))
        logits, corners = layers.logits[-1], losses._corners(layers.boxes[-1])
        for row, question in enumerate(batch.questions):
            shown: dict[str, list[list[Any]]] = {}
            if question.boxes:
                shown["input_boxes"] = [[list(box.corners(128, 128)) for box in question.boxes]]
                shown["input_boxes_labels"] = [[int(box.positive) for box in question.boxes]]
            inputs = processor(images=batch.images[row // 3], text=question.text, **shown, return_tensors="pt")
            plain = model(**inputs)
            torch.testing.assert_close(shared[row], plain.semantic_seg[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(logits[row], plain.pred_logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(corners[row], plain.pred_boxes[0], atol=1e-4, rtol=1e-4)


def test_an_untrained_model_scores_near_nothing(tmp_path: Path) -> None:
    training = train.Training(tmp_path, FEW)
    figures = evaluate.evaluate(training.average, training.processor, 3, 1).figures()
    assert set(figures) == {"f1", "precision", "recall", "mean_iou", "presence_accuracy"}
    assert figures["f1"] < 0.2
