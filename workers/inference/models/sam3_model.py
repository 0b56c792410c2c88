"""SAM3 as a `Segmenter`: runs the model on batches of images. Knows no files.

Equal to the plain library loop (processor, model, `post_process_instance_segmentation`), with less work: the text
encoder runs once for each prompt, the vision encoder once for each image, and masks are never enlarged: their RLE is
made from the low resolution of the model. Inside a forward pass the host does not wait for the device, except twice in
a run of the heads with boxes. `predict` returns while the device still works, so that the next batch can be prepared
meanwhile.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from workers.inference.answers import Found
from workers.inference.models.sam3_boxes import boxes_of
from workers.inference.models.sam3_changes import apply_changes
from workers.inference.models.sam3_checkpoint import load
from workers.inference.models.sam3_heads import Heads, keep
from workers.inference.models.sam3_parts import Boxes, Compiled, Levels, Parts, Plain
from workers.inference.models.sam3_precision import attention_kernel, lower
from workers.inference.models.sam3_texts import PADDED, Texts
from workers.inference.models.torch_checkpoint import weights_sha256
from workers.inference.models.torch_copies import Copies, to_device
from workers.inference.models.torch_kept import Kept, RawKept, Row
from workers.inference.models.torch_memory import within_memory
from workers.inference.models.torch_pixels import Pictures
from workers.inference.models.torch_precision import chosen, use_products
from workers.inference.protocol import ModelFacts, Options, OutOfMemory, Pixels
from workers.inference.reading.images import RGB
from workers.inference.segmenters import Precision


@dataclass(eq=False)
class _Raw(RawKept):
    """`kept` is of all runs of the heads but the last one, which may still be under way."""

    last: Heads | None = None


class Sam3Segmenter:
    """A SAM3 checkpoint, loaded on one device. Implements `protocol.Segmenter`."""

    def __init__(
        self,
        folder: str | Path,
        *,
        model_name: str,
        revision: str | None = None,
        device: str = "cpu",
        dtype: Precision = "auto",
    ) -> None:
        """Load the checkpoint in `folder`. `mixed` is the default on a GPU: the vision encoder and the DETR encoder's
        self-attention in bf16, the rest in fp32, as boxes in bf16 would be wrong by pixels. Raises `ModelUnusable`."""
        folder = Path(folder)
        self._device = torch.device(device)
        self._dtype = chosen(dtype, self._device)
        self._model, processor = load(folder)
        self._pictures = Pictures(processor.image_processor, self._device)
        apply_changes(self._model)
        lower(self._model, self._dtype)
        self._model.to(self._device)
        self._copies = Copies(self._device)
        self._texts = Texts(self._model, processor.tokenizer)
        attention = attention_kernel(self._model, self._device)
        self._facts = ModelFacts(
            model_name,
            revision,
            weights_sha256(folder),
            self._dtype,
            device,
            attention=attention,
            takes_boxes=True,
        )
        self._plain = Plain(self._model)
        self._compiled = Compiled(self._plain, f"{self._facts.weights_sha256[:12]}-{self._dtype}-{_kind(self._device)}")

    @property
    def facts(self) -> ModelFacts:
        """What is loaded."""
        return replace(self._facts, compiles=self._compiled.works)

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        """The prompts that the model cannot take, each with the reason."""
        bad = {}
        most = self._texts.most_tokens
        for prompt in prompts:
            if not prompt.strip():
                bad[prompt] = "is empty"
            elif (tokens := self._texts.tokens(prompt)) > most:
                bad[prompt] = f"has {tokens} tokens, the model takes {most}"
        return bad

    def preprocess(self, image: RGB) -> Pixels:
        """Resize to the model's square, without keeping the proportions."""
        height, width = image.shape[:2]
        return Pixels(self._pictures.resized(image), height, width)

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> _Raw:
        """One run of the vision encoder for the whole batch. Raises `OutOfMemory`.

        A batch for compiled kernels is filled up to their size. If there is no memory for that, it runs as it is.
        """
        size = self._compiled.size_for(len(batch)) if options.compiled else None
        try:
            return within_memory(partial(self._predict, batch, prompts, options, size), size or len(batch))
        except OutOfMemory:
            if size is None:
                raise
            self._compiled.ran_out(len(batch))
            if size == len(batch) > 1:
                raise
        return self.predict(batch, prompts, replace(options, compiled=False))

    @torch.inference_mode()
    def _predict(
        self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options, size: int | None
    ) -> _Raw:
        """A run of the heads has at most as many rows as the batch has images; there are as many runs as all prompts
        need. Of each run only the kept instances stay in memory, so more prompts take hardly more memory. New prompts
        are encoded first, so that nobody waits between the vision encoder and the heads."""
        use_products(self._dtype, self._device)
        self._texts.learn(prompt for asked in prompts for prompt in asked)
        parts: Parts = self._compiled if size else self._plain
        features = parts.see(self._to_device(batch, size))
        kept: dict[Row, Kept] = {}
        heads: Heads | None = None
        for rows in self._runs(batch, prompts, size or len(batch)):
            if heads is not None:
                kept |= keep(heads, options.floor, copy=True)
                heads = None  # before the next ones are made
            asked = [prompts[image][number] for image, number in rows]
            if batch[rows[0][0]].boxes:
                heads = self._run_with_boxes(features, rows, asked, boxes_of([batch[image] for image, _ in rows]))
            else:
                heads = self._run_heads(parts, features, rows, asked, size)
        assert heads is not None, "an item has at least one prompt"
        return _Raw([(pixels.height, pixels.width) for pixels in batch], kept, self._copies.mark(), last=heads)

    def _run_heads(self, parts: Parts, features: Levels, rows: list[Row], asked: list[str], size: int | None) -> Heads:
        """Look for `asked`, one prompt for each of the rows. With `size`, rows are added up to that and left out of the
        answer. No other name holds the answer, so that its masks leave the memory with it."""
        spare = size - len(rows) if size else 0
        images = [image for image, _ in rows] + [0] * spare
        text, mask = self._text_of(asked + asked[:1] * spare, padded=size is not None)
        numbers, masks = parts.find(self._rows_of(features, images), text, mask)
        return Heads(rows, numbers[: len(rows)], masks[: len(rows)])

    def _run_with_boxes(self, features: Levels, rows: list[Row], asked: list[str], boxes: Boxes) -> Heads:
        """As `_run_heads`, for images that come with boxes. Compiled kernels have one shape, and these rows any number
        of boxes, so none are used."""
        text, mask = self._text_of(asked, padded=False)
        edges, labels = (to_device(one, self._device) for one in boxes)
        of_rows = self._rows_of(features, [image for image, _ in rows])
        return Heads(rows, *self._plain.find(of_rows, text, mask, (edges, labels)))

    def _to_device(self, batch: Sequence[Pixels], rows: int | None = None) -> torch.Tensor:
        return self._pictures.on_device([pixels.data for pixels in batch], rows)

    def _runs(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], most: int) -> list[list[Row]]:
        """The rows of each run of the heads, at most so many. Prompts of equal length are put together, if that needs
        no further run. Rows with boxes are never together with others, which would get another answer there."""
        rows = [(image, number) for image, asked in enumerate(prompts) for number in range(len(asked))]
        rows.sort(key=lambda row: (len(self._texts[prompts[row[0]][row[1]]]), row[1], row[0]))
        kinds = [[row for row in rows if bool(batch[row[0]].boxes) is boxed] for boxed in (False, True)]
        return [kind[start : start + most] for kind in kinds for start in range(0, len(kind), most)]

    def _text_of(self, prompts: Sequence[str], *, padded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text features, one row a prompt, and the mask of their padding, without which they have equal lengths.

        With `padded` all have the length of the longest possible prompt, as compiled kernels have one shape.
        """
        features = [self._texts[prompt] for prompt in prompts]
        lengths = torch.tensor([len(tokens) for tokens in features])
        if not padded and (lengths == lengths[0]).all():
            return torch.stack(features), None
        longest = PADDED if padded else int(lengths.max())
        attention_mask = torch.arange(longest) < lengths[:, None]
        text = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        if text.shape[1] < longest:
            text = torch.nn.functional.pad(text, (0, 0, 0, longest - text.shape[1]))
        return text, to_device(attention_mask, self._device)

    def _rows_of(self, features: Levels, images: list[int]) -> Levels:
        """The vision features of these images, without a copy if they are all; else the copy has the same order in
        memory, on which compiled kernels depend."""
        if images == list(range(len(features[0]))):
            return features
        wanted = to_device(torch.tensor(images), self._device)
        places = [torch.empty_like(level[: len(images)]) for level in features]
        return tuple(
            torch.index_select(level, 0, wanted, out=place) for level, place in zip(features, places, strict=True)
        )

    def postprocess(self, raw: _Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """What `post_process_instance_segmentation` gives, as RLE. An empty mask stays, with area 0, as there.

        Masks leave the device in the model's own size; the rest is the CPU's. Raises `OutOfMemory`.
        """
        return within_memory(partial(self._postprocess, raw, rows, options), len(rows))

    @torch.inference_mode()
    def _postprocess(self, raw: _Raw, images: range, options: Options) -> list[tuple[Found, ...]]:
        with self._copies.beside_the_next_batch(raw.done):
            if raw.last is not None:
                raw.kept |= keep(raw.last, options.floor)
                raw.last = None
            raw.fetch(images, options)
        return raw.found(images, options)


def _kind(device: torch.device) -> str:
    """The device, by what its kernels depend on, in letters that a file's name may have."""
    if device.type != "cuda":
        return device.type
    return re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(device))
