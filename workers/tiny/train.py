"""Trains the tiny model to find drawn shapes: `python -m workers.tiny.train FOLDER --minutes 85`.

One process computes and another draws. The state is saved to FOLDER every few minutes, and the same command continues
from it with the same pictures in the same order. `FOLDER/curve.jsonl` records losses and figures. Only `--export`
replaces the bundled checkpoint. Knows nothing of the pipeline that uses the model.
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
from transformers import BatchEncoding, CLIPTokenizer, Sam3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from workers.tiny import architecture, evaluate, examples, losses, scenes
from workers.tiny.files import CHECKPOINT

CHECK_SEED = 7  # seed of the scenes on which the curve's F1 is measured; neither trained on nor used by `evaluate`
CHECK_SCENES = 60
AVERAGE = 0.998  # share of the averaged weights that is kept at each step


@dataclass(frozen=True)
class Settings:
    """The settings of a training. It ends after `steps` or `minutes`, whichever is set and reached first."""

    seed: int = 1
    scenes: int = 8  # of a batch, with two prompts each
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
        sizes = examples.Sizes(self.settings.scenes, config.image_size, architecture.MASK_SIZE)
        learned: list[dict[str, float]] = []
        began, unsaved = time.monotonic() - self.seconds, time.monotonic()
        with (
            examples.stream(self.settings.seed, self.step, sizes) as batches,
            losses.listen(self.model) as layers,
        ):
            while not self.over:
                learned.append(self._learn(next(batches), layers))
                self.seconds = time.monotonic() - began
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
        inputs = encode(batch.prompts, self.processor.tokenizer)
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


def pixels(batch: examples.Batch) -> Tensor:
    """Return the pictures as the processor would make them, (scenes, 3, side, side) in [-1, 1]."""
    return torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 127.5 - 1


def truths(batch: examples.Batch) -> list[losses.Truth]:
    """Return what each pair of the batch names, as tensors."""
    return [
        losses.Truth(torch.from_numpy(masks).float() / 255, torch.from_numpy(boxes))
        for masks, boxes in zip(batch.masks, batch.boxes, strict=True)
    ]


def encode(prompts: list[str], tokenizer: CLIPTokenizer) -> BatchEncoding:
    """Return token ids and mask, padded to the longest prompt only: more padding would cost time and change nothing."""
    encoded: BatchEncoding = tokenizer(prompts, padding=True, return_tensors="pt")
    return encoded


def forward(model: Sam3Model, pictures: Tensor, inputs: BatchEncoding) -> tuple[Tensor, Tensor]:
    """Run the model on every pair, each picture encoded once.

    Return the semantic logits (pairs, 1, side, side) and the patch features (scenes, width, patches, patches).
    """
    seen = model.get_vision_features(pictures)
    each = examples.PROMPTS_PER_SCENE
    shared = Sam3VisionEncoderOutput(
        fpn_hidden_states=tuple(level.repeat_interleave(each, dim=0) for level in seen.fpn_hidden_states),
        fpn_position_encoding=tuple(level.repeat_interleave(each, dim=0) for level in seen.fpn_position_encoding),
    )
    text: BaseModelOutputWithPooling = model.get_text_features(**inputs)
    output = model(vision_embeds=shared, text_embeds=text, attention_mask=inputs["attention_mask"])
    return output.semantic_seg, seen.fpn_hidden_states[-2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where state and curve are kept; the same folder resumes")
    parser.add_argument(
        "--minutes", type=float, help="after how long the learning rate has fallen to zero, all sittings together"
    )
    parser.add_argument("--steps", type=int, help="the same in steps: repeatable, unlike minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", action="store_true", help="write the averaged weights as the bundled checkpoint")
    arguments = parser.parse_args()
    if not (arguments.minutes or arguments.steps or arguments.export):
        parser.error("give --minutes or --steps, else the learning rate has no end to fall towards")
    torch.set_num_threads(arguments.threads)
    settings = Settings(seed=arguments.seed, steps=arguments.steps, minutes=arguments.minutes)
    training = Training(arguments.folder, settings)
    if arguments.minutes or arguments.steps:
        training.run()
    if arguments.export:
        architecture.write_checkpoint(CHECKPOINT, training.average)
        print(f"wrote step {training.step} to {CHECKPOINT}")


if __name__ == "__main__":
    main()
