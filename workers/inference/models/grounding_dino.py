"""Grounding DINO: the boxes of what a phrase names. Knows no masks and no files.

Equal to the library's loop over images and phrases, one of each at a time. Its image encoder runs once an image, though
the rest of the model runs once for each of the image's prompts: it looks at the image with the phrase in mind.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor, MMGroundingDinoForObjectDetection
from transformers.image_transforms import center_to_corners_format

from workers.inference.models.torch_checkpoint import load
from workers.inference.models.torch_copies import to_device
from workers.inference.models.torch_kept import Row
from workers.inference.models.torch_pixels import Pictures
from workers.inference.models.torch_precision import cast, in_bf16
from workers.inference.reading.images import RGB
from workers.inference.segmenters import Precision, model_type

# By the `model_type` of a checkpoint. The second has the same parts with other weights and another last layer.
KINDS: dict[str, Any] = {
    "grounding-dino": GroundingDinoForObjectDetection,
    "mm-grounding-dino": MMGroundingDinoForObjectDetection,
}
ENDS = ".?"  # what ends a phrase for Grounding DINO


class Detector:
    """A Grounding DINO checkpoint on one device."""

    def __init__(self, folder: Path, device: torch.device, dtype: Precision) -> None:
        """Raises `ModelUnusable`. `mixed` is bf16 for the image encoder alone, as boxes in bf16 are wrong by pixels."""
        self._device, self._given = device, torch.bfloat16 if dtype == "bf16" else torch.float32
        kind = KINDS[model_type(folder)]
        self._model, processor = load(folder, kind, GroundingDinoProcessor, name="Grounding DINO")
        self._pictures, self._tokenizer = Pictures(processor.image_processor, device), processor.tokenizer
        if dtype == "bf16":
            cast(self._model, torch.bfloat16)
        elif dtype == "mixed":
            in_bf16(self._model.model.backbone.conv_encoder.model)
        self._model.to(device)
        self._seen = _SeenOnce(self._model.model.backbone)
        self._model.model.backbone = self._seen

    @property
    def queries(self) -> int:
        """How many boxes it gives for a phrase in an image, whatever their scores."""
        return int(self._model.config.num_queries)

    def wrong(self, prompt: str) -> str | None:
        """Why the model cannot take this prompt; None if it can."""
        phrase = _phrase(prompt)
        if not phrase.strip(ENDS):
            return "is empty"
        if found := sorted(set(phrase[:-1]) & set(ENDS)):
            return f"holds {found[0]!r}, which ends a phrase for Grounding DINO"
        most = self._model.config.max_text_len
        if (tokens := len(self._tokenizer(phrase, verbose=False).input_ids)) > most:
            return f"has {tokens} tokens, the model takes {most}"
        return None

    def preprocess(self, image: RGB) -> RGB:
        """Resize, keeping the proportions."""
        return self._pictures.resized(image)

    def find(self, images: Sequence[RGB], prompts: Sequence[tuple[str, ...]]) -> tuple[list[Row], torch.Tensor]:
        """Each row, which is an image and one of its prompts, and its numbers (rows, 5 queries): scores, and boxes as
        x1, y1, x2, y2 in fractions of the image, in fp32.

        Images of one shape are seen together. Those of different shapes are not: they would have to be padded, and the
        image encoder gives other numbers for a padded image, so that a result would depend on its neighbours.
        """
        rows: list[Row] = []
        numbers: list[torch.Tensor] = []
        for members in _by_shape(images):
            asked = [(image, number) for image in members for number in range(len(prompts[image]))]
            asked.sort(key=lambda row: (row[1], row[0]))  # those who ask the same are mostly asked together
            pixels = self._pictures.on_device([images[image] for image in members])
            with self._seen.while_seen(pixels.to(self._given)):
                del pixels
                for start in range(0, len(asked), len(images)):
                    part = asked[start : start + len(images)]
                    phrases = [_phrase(prompts[image][number]) for image, number in part]
                    numbers.append(self._ask([members.index(image) for image, _ in part], phrases))
                    rows += part
        return rows, torch.cat(numbers)

    def _ask(self, images: list[int], phrases: Sequence[str]) -> torch.Tensor:
        """The numbers of a phrase in each of these images that are seen now."""
        texts = self._tokenizer(list(phrases), padding=True, return_tensors="pt")
        given = {
            name: to_device(texts[name], self._device) for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        output = self._model(**self._seen.choose(images), **given)
        scores = output.logits.float().sigmoid().amax(-1)  # of a query's best token, as in the library
        boxes: Any = center_to_corners_format(output.pred_boxes.float())
        return torch.cat((scores, boxes.flatten(1)), dim=1)


class _SeenOnce(torch.nn.Module):
    """Stands in the place of the image encoder, and answers with what that said about each image."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.position_embedding = encoder.position_embedding
        self._pixels: torch.Tensor | None = None
        self._answer: Any = None
        self._wanted: list[int] = []

    @contextmanager
    def while_seen(self, pixels: torch.Tensor) -> Iterator[None]:
        """Let the encoder see these images. At the end, also after an error, nothing of them is held."""
        try:
            self._pixels, self._answer = pixels, self.encoder(pixels, _whole(pixels))
            yield
        finally:
            self._pixels = self._answer = None

    def choose(self, images: list[int]) -> dict[str, torch.Tensor]:
        """Let the next call of the model be about these images; return the arguments of that call.

        Only the number and the size of the pixels matter in these arguments, as `forward` does not read their values.
        """
        assert self._pixels is not None
        self._wanted = images
        pixels = self._pixels[:1].expand(len(images), -1, -1, -1)
        return {"pixel_values": pixels, "pixel_mask": _whole(pixels)}

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor) -> Any:
        features, positions = self._answer
        return (
            [(self._rows(feature), self._rows(inside)) for feature, inside in features],
            [self._rows(position) for position in positions],
        )

    def _rows(self, of_each: torch.Tensor) -> torch.Tensor:
        """The rows of the chosen images, without a copy if all images are chosen."""
        if self._wanted == list(range(len(of_each))):
            return of_each
        return of_each.index_select(0, to_device(torch.tensor(self._wanted), of_each.device))


def _phrase(prompt: str) -> str:
    """The prompt as Grounding DINO was trained on phrases, and as the library's processor writes it."""
    return prompt.strip().lower().rstrip(". ") + "."


def _whole(pixels: torch.Tensor) -> torch.Tensor:
    """The mask that says that no image is padded."""
    return torch.ones((), dtype=torch.long, device=pixels.device).expand(len(pixels), *pixels.shape[-2:])


def _by_shape(images: Sequence[npt.NDArray[np.uint8]]) -> list[list[int]]:
    """The numbers of the images of each shape, in the order in which the shapes come."""
    members: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        members.setdefault(image.shape, []).append(number)
    return list(members.values())
