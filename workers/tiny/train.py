"""Trains the tiny model to find drawn shapes: `python -m workers.tiny.train FOLDER --minutes 150`.

It begins with new weights, or with `--start tiny` with the bundled ones. Beside each process that computes another one
draws. The state is saved to FOLDER every few minutes, and the same command continues from it with the same pictures in
the same order. `FOLDER/curve.jsonl` records losses and figures. Only `--export` replaces the bundled checkpoint. Knows
nothing of the pipeline that uses the model.
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import BatchEncoding, CLIPTokenizer, Sam3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from workers.tiny import architecture, evaluate, examples, losses, scenes, together
from workers.tiny.exemplars import Question
from workers.tiny.files import CHECKPOINT

CHECK_SEED = 7  # seed of the scenes on which the curve's F1 is measured; neither trained on nor used by `evaluate`
CHECK_SCENES = 60
PADDING = -10  # the library's label of a place without a box
AVERAGE = 0.998  # share of the averaged weights that is kept at each step


@dataclass(frozen=True)
class Settings:
    """The settings of a training. It ends after `steps` or `minutes`, whichever is set and reached first."""

    seed: int = 1
    start: str | None = None  # folder of the checkpoint to continue from; None for new weights
    scenes: int = 8  # of a batch, with three questions each
    rate: float = 6e-4
    warm_up: int = 200  # steps
    # In the first steps only the vision encoder is trained, to name shapes. Together with the larger losses of the
    # prompts it learned colours within 1,500 steps, but no shape within 2,600.
    look_first: int = 2500
    decay: float = 1e-4
    clip: float = 1.0
    bfloat16: bool = True  # inside the model; weights, losses and optimiser stay float32
    steps: int | None = None
    minutes: float | None = None
    log_every: int = 50  # steps
    check_every: int = 500  # steps
    save_minutes: float = 3.0

    def progress(self, step: int, seconds: float) -> float:
        """Return which share of the training is over, from 0 to 1."""
        by_step = step / self.steps if self.steps else 0.0
        by_time = seconds / 60 / self.minutes if self.minutes else 0.0
        return min(1.0, max(by_step, by_time))

    def rate_at(self, step: int, seconds: float) -> float:
        """Return the learning rate: a linear rise, then half a cosine down to zero."""
        cosine = (1 + math.cos(math.pi * self.progress(step, seconds))) / 2
        return self.rate * min(1.0, (step + 1) / self.warm_up) * cosine


class Training:
    """A model with its optimiser, its averaged weights and its curve, saved in a folder."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        # Convolutions over channels-last tensors are a tenth faster on a CPU.
        self.model = architecture.new_model(settings.seed)
        torch.nn.Module.to(self.model, memory_format=torch.channels_last)
        self.average = architecture.new_model(settings.seed)
        if settings.start:
            known = architecture.load_checkpoint(Path(settings.start))[0].state_dict()
            self.model.load_state_dict(known)
            self.average.load_state_dict(known)
        self.processor = architecture.new_processor()
        # Used in training only: it names the shape at each patch from the features of the vision encoder.
        self.shape_head = torch.nn.Conv2d(architecture.WIDTH, 1 + len(scenes.SHAPES), 1)
        for weights in self.shape_head.parameters():
            torch.nn.init.zeros_(weights)
        self.parameters = [*self.model.parameters(), *self.shape_head.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.rate, weight_decay=settings.decay, betas=(0.9, 0.98)
        )
        self.step, self.seconds = 0, 0.0
        self.share = together.share()  # the first process alone writes
        folder.mkdir(parents=True, exist_ok=True)
        if self._state.exists():
            self._restore()

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    @property
    def over(self) -> bool:
        return self.settings.progress(self.step, self.seconds) >= 1

    def run(self) -> None:
        """Train until the settings say that it is over; save on the way and at the end."""
        config = self.model.config
        sizes = examples.Sizes(self.settings.scenes, config.image_size, losses.FINER * architecture.MASK_SIZE)
        learned: list[dict[str, float]] = []
        began, unsaved = time.monotonic() - self.seconds, time.monotonic()
        with (
            examples.stream(self.settings.seed, self.step, sizes, self.share) as batches,
            losses.listen(self.model) as layers,
        ):
            while not self.over:
                learned.append(self._learn(next(batches), layers))
                self.seconds = together.agreed(time.monotonic() - began)
                if self.step % self.settings.log_every == 0:
                    self._record(learned)
                    learned = []
                if time.monotonic() - unsaved > self.settings.save_minutes * 60:
                    self.save()
                    unsaved = time.monotonic()
        self.save()

    def _learn(self, batch: examples.Batch, layers: losses.Layers) -> dict[str, float]:
        """Take one step; return the parts of its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate_at(self.step, self.seconds)
        parts = self._look(batch) if self.step < self.settings.look_first else self._answer(batch, layers)
        total = torch.stack(list(parts.values())).sum()
        self.optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        together.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimizer.step()
        self.step += 1
        self._average()
        return {"loss": total.item(), **{name: value.item() for name, value in parts.items()}}

    def _look(self, batch: examples.Batch) -> dict[str, Tensor]:
        """Return the loss of naming the shape at each patch, without any prompt."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            features = self.model.get_vision_features(pixels(batch)).fpn_hidden_states[-2]
        return {"shape": self._shape_loss(features, batch)}

    def _answer(self, batch: examples.Batch, layers: losses.Layers) -> dict[str, Tensor]:
        """Return the losses of answering the prompts, and the loss of naming shapes."""
        inputs = encode(batch.questions, self.processor.tokenizer)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            semantic, features = forward(self.model, pixels(batch), inputs)
        parts = losses.losses(self.model, layers, semantic.float(), truths(batch))
        return {**parts, "shape": self._shape_loss(features, batch)}

    def _shape_loss(self, features: Tensor, batch: examples.Batch) -> Tensor:
        return losses.shape_loss(self.shape_head(features.float()), torch.from_numpy(batch.shapes))

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)

    def _record(self, learned: list[dict[str, float]]) -> None:
        """Add the mean losses of the latest steps to the curve, every `check_every` steps with measured figures."""
        if self.share:
            return
        line: dict[str, Any] = {"step": self.step, "minutes": self.seconds / 60}
        line["rate"] = self.settings.rate_at(self.step, self.seconds)
        line |= {name: sum(parts[name] for parts in learned) / len(learned) for name in learned[0]}
        if self.step % self.settings.check_every == 0:
            line |= evaluate.evaluate(self.average, self.processor, CHECK_SCENES, CHECK_SEED).figures()
        text = json.dumps({key: round(value, 5) for key, value in line.items()})
        with (self.folder / "curve.jsonl").open("a") as curve:
            curve.write(text + "\n")
        print(text, flush=True)

    def save(self) -> None:
        """Write all that a later call needs to continue. The file is replaced in one step."""
        if self.share:
            return
        state = {
            "model": self.model.state_dict(), "average": self.average.state_dict(),
            "shape_head": self.shape_head.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        partial = self._state.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._state)
        (self.folder / "settings.json").write_text(json.dumps(asdict(self.settings), indent=1) + "\n")

    def _restore(self) -> None:
        state = torch.load(self._state, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.shape_head.load_state_dict(state["shape_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def train(folder: Path, settings: Settings) -> None:
    """Train in a folder; processes that call this together train the same weights."""
    Training(folder, settings).run()


def pixels(batch: examples.Batch) -> Tensor:
    """Return the pictures as the processor would make them, (scenes, 3, side, side) in [-1, 1]."""
    return torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 127.5 - 1


def truths(batch: examples.Batch) -> list[losses.Truth]:
    """Return the answers to the questions of the batch, as tensors."""
    answers = []
    for masks, boxes in zip(batch.masks, batch.boxes, strict=True):
        fine = torch.from_numpy(masks).float() / 255
        answers.append(losses.Truth(avg_pool2d(fine[:, None], losses.FINER)[:, 0], torch.from_numpy(boxes), fine))
    return answers


@dataclass(frozen=True)
class Inputs:
    """Questions as the model takes them, padded to the longest; labels are PADDING where there is no box."""

    text: BatchEncoding
    boxes: Tensor
    labels: Tensor


def encode(questions: list[Question], tokenizer: CLIPTokenizer) -> Inputs:
    """Return token ids, mask, and boxes. More padding than for the longest would cost time and change nothing."""
    text: BatchEncoding = tokenizer([question.text for question in questions], padding=True, return_tensors="pt")
    most = max(len(question.boxes) for question in questions)
    boxes, labels = torch.zeros(len(questions), most, 4), torch.full((len(questions), most), PADDING)
    for row, question in enumerate(questions):
        for place, box in enumerate(question.boxes):
            boxes[row, place] = torch.tensor(box[:4])
            labels[row, place] = int(box.positive)
    return Inputs(text, boxes, labels)


def forward(model: Sam3Model, pictures: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Run the model on every pair, each picture encoded once.

    Return the semantic logits (pairs, 1, side, side) and the patch features (scenes, width, patches, patches).
    """
    seen = model.get_vision_features(pictures)
    each = len(inputs.labels) // len(pictures)
    shared = Sam3VisionEncoderOutput(
        fpn_hidden_states=tuple(level.repeat_interleave(each, dim=0) for level in seen.fpn_hidden_states),
        fpn_position_encoding=tuple(level.repeat_interleave(each, dim=0) for level in seen.fpn_position_encoding),
    )
    words: Tensor = model.get_text_features(**inputs.text).pooler_output
    shown, shown_mask = _encode_boxes(model, shared, inputs)
    # The model itself appends the boxes to the text for all pairs or for none, but some of our pairs have no boxes.
    prompt = BaseModelOutputWithPooling(pooler_output=torch.cat([words, shown], dim=1))
    mask = torch.cat([inputs.text["attention_mask"].bool(), shown_mask], dim=1)
    output = model(vision_embeds=shared, text_embeds=prompt, attention_mask=mask)
    return output.semantic_seg, seen.fpn_hidden_states[-2]


def _encode_boxes(model: Sam3Model, seen: Sam3VisionEncoderOutput, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the boxes' part of the prompts, (pairs, boxes + 1, width), and where it counts."""
    there = inputs.labels != PADDING
    with torch.autocast("cpu", enabled=False):  # pooling in a box knows no bfloat16
        shown = model.geometry_encoder(
            box_embeddings=inputs.boxes,
            box_mask=there,
            box_labels=inputs.labels.clamp(min=0),
            img_feats=[level.float() for level in seen.fpn_hidden_states[:-1]],
            img_pos_embeds=[level.float() for level in seen.fpn_position_encoding[:-1]],
        )
    return shown.last_hidden_state, shown.attention_mask.bool() & there.any(dim=1, keepdim=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where state and curve are kept; the same folder resumes")
    parser.add_argument(
        "--minutes", type=float, help="after how long the learning rate has fallen to zero, all sittings together"
    )
    parser.add_argument("--steps", type=int, help="the same in steps: repeatable, unlike minutes")
    parser.add_argument("--start", help='folder of the checkpoint to continue from, or "tiny" for the bundled one')
    parser.add_argument("--rate", type=float, default=Settings.rate, help="the highest learning rate")
    parser.add_argument("--scenes", type=int, default=Settings.scenes, help="scenes of a step in each process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--processes", type=int, default=1, help="of one thread each: threads of one process mostly wait for each other"
    )
    parser.add_argument("--export", action="store_true", help="write the averaged weights as the bundled checkpoint")
    arguments = parser.parse_args()
    if not (arguments.minutes or arguments.steps or arguments.export):
        parser.error("give --minutes or --steps, else the learning rate has no end to fall towards")
    settings = Settings(
        seed=arguments.seed,
        start=str(CHECKPOINT) if arguments.start == "tiny" else arguments.start,
        look_first=0 if arguments.start else Settings.look_first,
        scenes=arguments.scenes,
        rate=arguments.rate,
        steps=arguments.steps,
        minutes=arguments.minutes,
    )
    if arguments.minutes or arguments.steps:
        together.run(arguments.processes, train, arguments.folder, settings)
    if arguments.export:
        training = Training(arguments.folder, settings)
        architecture.write_checkpoint(CHECKPOINT, training.average)
        print(f"wrote step {training.step} to {CHECKPOINT}")


if __name__ == "__main__":
    main()
