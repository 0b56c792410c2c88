"""SAM3 as a `Segmenter`: the only module that touches torch and transformers. Knows no files but the model's.

Equal to the plain library loop (processor, model, `post_process_instance_segmentation`), with less work: the text
encoder runs once a prompt, the vision encoder once an image, and masks are never enlarged: their RLE comes from the
model's own low resolution. Inside a forward pass nothing of ours waits for the device (the library does, three times,
if rows ask prompts of different lengths), only for what leaves it: `predict` returns while the device still works, so
that the next batch can be handed over meanwhile.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import Sam3Model, Sam3Processor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput
from transformers.utils import logging as transformers_logging

from workers.errors import Unreachable
from workers.inference import masks
from workers.inference.answers import Found, Instance
from workers.inference.images import RGB
from workers.inference.pipeline import ModelFacts, Options, OutOfMemory, Pixels

T = TypeVar("T")
Precision = Literal["auto", "mixed", "fp32", "bf16"]

CACHED_PROMPTS = 1024  # 32 kB each
SMALLEST = 1 / float(np.finfo(np.float32).max)  # probability in fp32: below it sigmoid gives 0
# What says that memory is short without being a torch.OutOfMemoryError: torch on a CPU, the driver, CUDA's libraries.
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
NEARLY_ALL = 0.95  # of the queries kept: 190 of SAM3's 200. More objects than queries cannot be told apart.


class ModelUnusable(Unreachable):
    """A folder that does not hold a SAM3 which can be loaded; one line that says what is wrong."""


Row = tuple[int, int]
"""What the heads are asked: an image of the batch, by its number, and which of its prompts."""


@dataclass(frozen=True, eq=False)
class _Heads:
    """What one run of the heads left on the device. r rows, q queries:"""

    rows: list[Row]
    numbers: torch.Tensor  # (r, 1 + 5 q) presence, scores, boxes as x1, y1, x2, y2 in fractions of the image; fp32
    masks: torch.Tensor  # (r, q, h, w) logits at the model's mask size


@dataclass(frozen=True, eq=False)
class _Kept:
    """What one prompt keeps of one image, best score first. n instances:"""

    presence: float
    scores: npt.NDArray[np.float32]  # (n,)
    boxes: npt.NDArray[np.float32]  # (n, 4)
    masks: list[torch.Tensor]  # n of (h, w), logits, on the device
    capped: bool


@dataclass(frozen=True, eq=False)
class _Raw:
    sizes: list[tuple[int, int]]  # (height, width) of each image
    kept: dict[Row, _Kept]  # of all runs of the heads but the last one,
    last: _Heads  # which may still be under way,
    done: torch.cuda.Event | None  # until then; on a GPU only


class Sam3Segmenter:
    """A SAM3 checkpoint, loaded on one device. Implements `pipeline.Segmenter`."""

    def __init__(
        self,
        folder: str | Path,
        *,
        model_name: str,
        revision: str | None = None,
        device: str = "cpu",
        dtype: Precision = "auto",
    ) -> None:
        """Load what `folder` holds. `mixed` is the default on a GPU: the vision encoder's backbone, nine tenths of
        the work, in bf16, the rest in fp32; boxes in bf16 would be off by pixels. Raises `ModelUnusable`."""
        folder = Path(folder)
        if dtype == "auto":
            dtype = "mixed" if device.startswith("cuda") else "fp32"
        self._device = torch.device(device)
        self._model, processor = _load(folder)
        self._tokenizer = processor.tokenizer
        self._images = images = processor.image_processor
        # As the library: (value / 255 - mean) / std in one step.
        self._mean, self._std = (
            (torch.tensor(values) * (1 / images.rescale_factor)).view(3, 1, 1).to(self._device)
            for values in (images.image_mean, images.image_std)
        )
        self._set_precision(dtype)
        self._model.to(self._device)
        self._model.detr_encoder.register_forward_hook(_keep_shapes_on_host, with_kwargs=True)
        self._copies: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        # Not a method of ours: that would be a cycle, and a model no longer wanted should leave the GPU at once.
        encode = partial(_encode_text, model=self._model, tokenizer=self._tokenizer)
        self._text_features = lru_cache(CACHED_PROMPTS)(encode)
        self._facts = ModelFacts(model_name, revision, _weights_sha256(folder), dtype, device)

    @property
    def facts(self) -> ModelFacts:
        """What is loaded."""
        return self._facts

    def _set_precision(self, dtype: Precision) -> None:
        if dtype == "mixed" and self._device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 for what stays fp32
        if dtype == "mixed":
            _cast(self._model.vision_encoder.backbone, torch.bfloat16)
        elif dtype == "bf16":
            _cast(self._model, torch.bfloat16)

    def check_prompts(self, prompts: Sequence[str]) -> dict[str, str]:
        """The prompts that the model cannot take, each with the reason."""
        bad = {}
        most = _prompt_tokens(self._model)
        for prompt in prompts:
            tokens = len(self._tokenizer(prompt, verbose=False).input_ids)
            if not prompt.strip():
                bad[prompt] = "is empty"
            elif tokens > most:
                bad[prompt] = f"has {tokens} tokens, the model takes {most}"
        return bad

    def preprocess(self, image: RGB) -> Pixels:
        """Resize by the library's processor: the aspect ratio is not kept, bilinear, antialiased, in uint8.

        The colours of a pixel stay together, as they were decoded; taking them apart first would cost more than the
        resize, and the device does it for nothing.
        """
        height, width = image.shape[:2]
        planes = torch.from_numpy(image).permute(2, 0, 1)
        resized = self._images.resize(planes, self._images.size, self._images.resample)
        return Pixels(resized.permute(1, 2, 0).numpy(), height, width)

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> _Raw:
        """One run of the vision encoder for the whole batch. Raises `OutOfMemory`."""
        return _within_memory(partial(self._predict, batch, prompts, options))

    @torch.inference_mode()
    def _predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> _Raw:
        """The heads run as often as it takes to ask everything with at most as many rows as there are images, so more
        prompts take hardly more memory: all but what is kept of a run is let go before the next one."""
        vision = self._model.get_vision_features(self._to_device(batch))
        kept: dict[Row, _Kept] = {}
        heads: _Heads | None = None
        for rows in self._runs(prompts):
            if heads is not None:
                kept |= _keep(heads, options.floor, copy=True)
                heads = None  # before the next ones are made
            heads = self._run_heads(vision, rows, [prompts[image][number] for image, number in rows])
        assert heads is not None, "an item has at least one prompt"
        done = None if self._copies is None else torch.cuda.current_stream(self._device).record_event()
        return _Raw([(pixels.height, pixels.width) for pixels in batch], kept, heads, done)

    def _to_device(self, batch: Sequence[Pixels]) -> torch.Tensor:
        """The batch normalised, of shape (rows, 3, height, width). It travels as uint8, a quarter of the bytes; to a
        GPU from pinned memory, so that nobody waits for it."""
        shape = (len(batch), *batch[0].data.shape)
        stacked = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        np.stack([pixels.data for pixels in batch], out=stacked.numpy())
        planes = self._sent(stacked).permute(0, 3, 1, 2)
        pixels = planes.to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.sub_(self._mean).div_(self._std)

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the device, without waiting for it to arrive, which takes pinned memory on a GPU."""
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()  # itself, if it is already
        return tensor.to(self._device, non_blocking=True)

    def _runs(self, prompts: Sequence[tuple[str, ...]]) -> list[list[Row]]:
        """What to ask in each run of the heads: prompts of one length together, where that costs no further run."""
        rows = [(image, number) for image, asked in enumerate(prompts) for number in range(len(asked))]
        rows.sort(key=lambda row: (self._text_features(prompts[row[0]][row[1]]).shape[1], row[1], row[0]))
        return [rows[start : start + len(prompts)] for start in range(0, len(rows), len(prompts))]

    def _run_heads(self, vision: Any, rows: list[Row], prompts: list[str]) -> _Heads:
        text, attention_mask = self._text_of(prompts)
        output = self._model(
            vision_embeds=self._rows_of(vision, [image for image, _ in rows]),
            text_embeds=BaseModelOutputWithPooling(pooler_output=text),  # forward() reads this, though it says tensor
            attention_mask=attention_mask,
        )
        presence = output.presence_logits.float().sigmoid()  # (rows, 1)
        scores = output.pred_logits.float().sigmoid() * presence  # (rows, queries)
        numbers = torch.cat((presence, scores, output.pred_boxes.float().flatten(1)), dim=1)
        return _Heads(rows, numbers, output.pred_masks)

    def _text_of(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text features, one row a prompt, and their attention mask if they differ in length. Without a mask the model
        does not have to look for padding, for which it would wait for the device three times."""
        features = [self._text_features(prompt)[0] for prompt in prompts]
        lengths = torch.tensor([len(tokens) for tokens in features])
        if (lengths == lengths[0]).all():
            return torch.stack(features), None
        attention_mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return torch.nn.utils.rnn.pad_sequence(features, batch_first=True), self._sent(attention_mask)

    def _rows_of(self, vision: Any, images: list[int]) -> Any:
        """The vision features of these images, without a copy if they are all. Positions are every image's."""
        if images == list(range(len(vision.fpn_hidden_states[0]))):
            return vision
        wanted = self._sent(torch.tensor(images))
        return Sam3VisionEncoderOutput(
            fpn_hidden_states=tuple(level.index_select(0, wanted) for level in vision.fpn_hidden_states),
            fpn_position_encoding=tuple(level[: len(images)] for level in vision.fpn_position_encoding),
        )

    def postprocess(self, raw: _Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """What `post_process_instance_segmentation` gives, as RLE. An empty mask stays, with area 0, as there.

        Masks leave the device in the model's own size; the rest is the CPU's. Raises `OutOfMemory`.
        """
        return _within_memory(partial(self._postprocess, raw, rows, options))

    @torch.inference_mode()
    def _postprocess(self, raw: _Raw, images: range, options: Options) -> list[tuple[Found, ...]]:
        with self._beside_the_next_batch(raw.done):
            kept = raw.kept | _keep(raw.last, options.floor)
            wanted = {row: kept[row] for row in sorted(kept) if row[0] in images}
            small = iter(_to_host([mask for one in wanted.values() for mask in one.masks], options))
        found: dict[int, list[Found]] = {image: [] for image in images}
        for (image, _), one in wanted.items():
            found[image].append(_found(one, small, raw.sizes[image], options))
        return [tuple(of_image) for of_image in found.values()]

    @contextmanager
    def _beside_the_next_batch(self, done: torch.cuda.Event | None) -> Iterator[None]:
        """On a GPU: work on a stream of its own, which waits until `done` and not for what was launched since. What it
        reads must be on the host when this ends (`Tensor.cpu` waits): its memory goes back to the other stream."""
        if self._copies is None or done is None:
            yield
            return
        self._copies.wait_event(done)
        with torch.cuda.stream(self._copies):
            yield


def _within_memory(work: Callable[[], T]) -> T:
    """The value of `work`. Raises `OutOfMemory` once nothing of what did not fit is held any more."""
    try:
        return work()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
    # Not inside the block above: the error's traceback holds the frames, and those the tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemory


def _cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights only. `module.to(dtype)` would also round the tables of positions, which the library keeps
    in fp32."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _prompt_tokens(model: Any) -> int:
    return int(model.config.text_config.max_position_embeddings)


def _encode_text(prompt: str, *, model: Any, tokenizer: Any) -> torch.Tensor:
    """Text features (1, tokens, width). Padded for the text encoder as the library's processor pads, then trimmed."""
    tokens = tokenizer([prompt], padding="max_length", max_length=_prompt_tokens(model), return_tensors="pt")
    length = int(tokens.attention_mask.sum())
    tokens = tokens.to(model.device)
    features = model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
    return cast(torch.Tensor, features[:, :length].clone())


def _keep_shapes_on_host(encoder: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    """Each layer of the decoder asks for the size of the encoder's features twice, and waits for the device if that is
    where the numbers are."""
    if "vision_features" in kwargs:
        output.spatial_shapes = torch.tensor([features.shape[-2:] for features in kwargs["vision_features"]])
    return output


def _keep(heads: _Heads, floor: float, copy: bool = False) -> dict[Row, _Kept]:
    """Of each row the instances that score above `floor`. A `copy` of their masks lets all the others go."""
    numbers = heads.numbers.cpu().numpy()
    queries = heads.masks.shape[1]
    kept = {}
    for row, masks_of_row, line in zip(heads.rows, heads.masks, numbers, strict=True):
        presence, scores, boxes = line[0], line[1 : 1 + queries], line[1 + queries :].reshape(queries, 4)
        chosen = np.flatnonzero(scores > floor)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        small = [masks_of_row[query] for query in chosen]
        if copy and small:
            small = list(torch.stack(small))
        capped = len(chosen) >= NEARLY_ALL * queries
        kept[row] = _Kept(float(presence), scores[chosen], boxes[chosen], small, capped)
    return kept


def _to_host(logits: list[torch.Tensor], options: Options) -> npt.NDArray[np.float32]:
    """Masks (n, h, w) as they are enlarged: probabilities by the library's rule, logits by Meta's. One copy for all."""
    if not logits:
        return np.empty((0, 1, 1), np.float32)
    small = torch.stack(logits).float()
    if options.mask_rule == "library":
        small.sigmoid_()
    return cast(npt.NDArray[np.float32], small.cpu().numpy())


def _found(kept: _Kept, small: Iterator[Any], size: tuple[int, int], options: Options) -> Found:
    height, width = size
    boxes = kept.boxes * np.array([width, height, width, height], np.float32)
    cut = _cut(options)
    instances = []
    for score, (x1, y1, x2, y2) in zip(kept.scores.tolist(), boxes.tolist(), strict=True):
        rle = masks.encode_enlarged(next(small), height, width, cut)
        instances.append(Instance(score, (x1, y1, x2, y2), masks.area(rle, height, width), rle))
    return Found(kept.presence, tuple(instances), kept.capped)


def _cut(options: Options) -> float:
    """What an enlarged pixel must exceed to be inside. Meta enlarges logits, and then asks for their probability."""
    threshold = options.mask_threshold
    if options.mask_rule == "library":
        return threshold
    if threshold >= 1:
        return math.inf
    return math.log(max(threshold, SMALLEST) / (1 - threshold))


def _load(folder: Path) -> tuple[Any, Any]:
    """Model (fp32, on the CPU) and processor, from safetensors only and without any code of the checkpoint's."""
    _check_folder(folder)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    try:
        # Any: the library's stubs know neither the loading report nor the processor's parts.
        loaded: Any = Sam3Model.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        processor: Any = Sam3Processor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        images = processor.image_processor
        usual = images.do_resize and images.do_rescale and images.do_normalize and images.size["height"]
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelUnusable(
            f"model {folder}: cannot be loaded ({type(error).__name__}: {reason}); download it again"
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"model {folder}: {len(missing)} weights are missing, {missing[0]} for one; not a complete SAM3"
        )
    if not usual:
        raise ModelUnusable(f"model {folder}: its image processor does not resize, rescale and normalise")
    return model.eval(), processor


def _check_folder(folder: Path) -> None:
    try:
        kind = json.loads((folder / "config.json").read_bytes())["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelUnusable(f"model {folder}: no usable config.json there; is it a model's folder?") from None
    if kind not in ("sam3", "sam3_video"):
        raise ModelUnusable(f"model {folder}: a {kind} model, not SAM3")
    if not _weight_files(folder):
        raise ModelUnusable(f"model {folder}: no weights there (model.safetensors)")
    # Without its files the library quietly makes a tokenizer that knows no words.
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelUnusable(f"model {folder}: no tokenizer there (tokenizer.json)")


def _weight_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("model-*.safetensors"))


def _weights_sha256(folder: Path) -> str:
    """The weights' name whatever the folder: one file's sha256 (the Hub shows the same), or that of its parts'."""
    digests = []
    for path in _weight_files(folder):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
