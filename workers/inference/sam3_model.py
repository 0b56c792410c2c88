"""SAM3 as a `Segmenter`: the only module that touches torch and transformers. Knows no files but the model's.

Equal to the plain library loop (processor, model, `post_process_instance_segmentation`), with less work: the text
encoder runs once a prompt, the vision encoder once an image, and masks are enlarged a few at a time, never as int64.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from transformers import Sam3Model, Sam3Processor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput
from transformers.utils import logging as transformers_logging

from workers.errors import Unreachable
from workers.inference import masks
from workers.inference.images import RGB
from workers.inference.pipeline import Found, Instance, ModelFacts, Options, OutOfMemory, Pixels

T = TypeVar("T")
Precision = Literal["auto", "mixed", "fp32", "bf16"]

CACHED_PROMPTS = 1024  # 32 kB each
SLICE_PIXELS = 8_000_000  # of masks enlarged at a time: about 60 MB. A mask that is larger goes alone.
NO_HOST_MEMORY = "can't allocate memory"  # what torch says on a CPU
NEARLY_ALL = 0.95  # of the queries kept: 190 of SAM3's 200. More objects than queries cannot be told apart.


class ModelUnusable(Unreachable):
    """A folder that does not hold a SAM3 which can be loaded; one line that says what is wrong."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """What one prompt keeps of one image, best score first, on the device. n instances:"""

    presence: torch.Tensor  # ()
    scores: torch.Tensor  # (n,)
    boxes: torch.Tensor  # (n, 4) x1, y1, x2, y2 as fractions of the image
    masks: torch.Tensor  # (n, h, w) logits at the model's mask size
    capped: bool


@dataclass(frozen=True, eq=False)
class _Raw:
    sizes: list[tuple[int, int]]  # (height, width) of each image
    kept: list[list[_Kept]]  # an image, a prompt


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
        """Resize by the library's processor: the aspect ratio is not kept, bilinear, antialiased, in uint8."""
        height, width = image.shape[:2]
        planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        resized = self._images.resize(planes, self._images.size, self._images.resample)
        return Pixels(resized.numpy(), height, width)

    def predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> _Raw:
        """One run of the vision encoder for the whole batch. Raises `OutOfMemory`."""
        return _within_memory(partial(self._predict, batch, prompts, options))

    @torch.inference_mode()
    def _predict(self, batch: Sequence[Pixels], prompts: Sequence[tuple[str, ...]], options: Options) -> _Raw:
        """The heads run once for the first prompt of all rows, once for the second of
        those rows that have one, and so on: only what is kept takes more memory with more prompts."""
        vision = self._model.get_vision_features(self._to_device(batch))
        kept: list[list[_Kept]] = [[] for _ in batch]
        for number in range(max(map(len, prompts))):
            rows = [row for row, asked in enumerate(prompts) if len(asked) > number]
            text, attention_mask = self._text_of([prompts[row][number] for row in rows])
            output = self._model(vision_embeds=_rows_of(vision, rows), text_embeds=text, attention_mask=attention_mask)
            for row, found in zip(rows, _keep(output, options.floor), strict=True):
                kept[row].append(found)
        return _Raw([(pixels.height, pixels.width) for pixels in batch], kept)

    def _to_device(self, batch: Sequence[Pixels]) -> torch.Tensor:
        """The batch normalised, of shape (rows, 3, height, width). It travels as uint8, a quarter of the bytes."""
        pixels = torch.from_numpy(np.stack([pixels.data for pixels in batch])).to(self._device)
        return pixels.to(torch.float32).sub_(self._mean).div_(self._std)

    def _text_of(self, prompts: Sequence[str]) -> tuple[BaseModelOutputWithPooling, torch.Tensor]:
        """Text features and attention mask, one row a prompt. The model accepts a missing mask, and then attends to
        the padding."""
        features, attention_masks = zip(*map(self._text_features, prompts), strict=True)
        # forward() reads `.pooler_output`, though its signature says tensor.
        return BaseModelOutputWithPooling(pooler_output=torch.cat(features)), torch.cat(attention_masks)

    def postprocess(self, raw: _Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
        """What `post_process_instance_segmentation` gives, as RLE. An empty mask stays, with area 0, as there.

        Raises `OutOfMemory`.
        """
        return _within_memory(partial(_postprocess, raw, rows, options))


def _within_memory(work: Callable[[], T]) -> T:
    """The value of `work`. Raises `OutOfMemory` once nothing of what did not fit is held any more."""
    try:
        return work()
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on a CPU the class says nothing
        if not isinstance(error, torch.OutOfMemoryError) and NO_HOST_MEMORY not in str(error):
            raise
    # Not inside the block above: the error's traceback holds the frames, and those the tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemory


@torch.inference_mode()
def _postprocess(raw: _Raw, rows: range, options: Options) -> list[tuple[Found, ...]]:
    chosen = slice(rows.start, rows.stop)
    return [
        tuple(_found(kept, height, width, options) for kept in of_image)
        for (height, width), of_image in zip(raw.sizes[chosen], raw.kept[chosen], strict=True)
    ]


def _cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights only. `module.to(dtype)` would also round the tables of positions, which the library keeps
    in fp32."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _prompt_tokens(model: Any) -> int:
    return int(model.config.text_config.max_position_embeddings)


def _encode_text(prompt: str, *, model: Any, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Text features (1, tokens, width) and attention mask (1, tokens), padded as the library's processor pads."""
    tokens = tokenizer([prompt], padding="max_length", max_length=_prompt_tokens(model), return_tensors="pt")
    tokens = tokens.to(model.device)
    features = model.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
    return features.pooler_output, tokens.attention_mask


def _rows_of(vision: Any, rows: list[int]) -> Any:
    """The vision features of these rows, without a copy if they are all."""
    if len(rows) == len(vision.fpn_hidden_states[0]):
        return vision
    return Sam3VisionEncoderOutput(
        fpn_hidden_states=tuple(level[rows] for level in vision.fpn_hidden_states),
        fpn_position_encoding=tuple(level[rows] for level in vision.fpn_position_encoding),
    )


def _keep(output: Any, floor: float) -> Iterator[_Kept]:
    """Row by row, the instances that score above `floor`, in fp32 from here on."""
    presence = output.presence_logits.float().sigmoid()  # (rows, 1)
    scores = output.pred_logits.float().sigmoid() * presence  # (rows, queries)
    for row, row_scores in enumerate(scores):
        queries = (row_scores > floor).nonzero().squeeze(1)
        queries = queries[row_scores[queries].argsort(descending=True, stable=True)]
        yield _Kept(
            presence[row, 0],
            row_scores[queries],
            output.pred_boxes[row, queries].float(),
            output.pred_masks[row, queries].float(),
            capped=len(queries) >= NEARLY_ALL * len(row_scores),
        )


def _found(kept: _Kept, height: int, width: int, options: Options) -> Found:
    scale = torch.tensor([width, height, width, height], device=kept.boxes.device)
    boxes = (kept.boxes * scale).tolist()
    rles = _encode(kept.masks, height, width, options)
    instances = tuple(
        Instance(score, (x1, y1, x2, y2), masks.area(rle, height, width), rle)
        for score, (x1, y1, x2, y2), rle in zip(kept.scores.tolist(), boxes, rles, strict=True)
    )
    return Found(kept.presence.item(), instances, kept.capped)


def _encode(logits: torch.Tensor, height: int, width: int, options: Options) -> Iterator[bytes]:
    """The RLEs of masks of shape (n, h, w), enlarged to the image's size a slice at a time."""
    if not len(logits):
        return  # nothing found; there would be one empty slice, which cannot be enlarged
    for part in torch.split(logits, max(1, SLICE_PIXELS // (height * width))):
        for mask in _enlarge(part, height, width, options).cpu().numpy():
            yield masks.encode(mask.T)


def _enlarge(logits: torch.Tensor, height: int, width: int, options: Options) -> torch.Tensor:
    """Binary masks of shape (n, width, height): transposed on the device, because runs go down the columns."""
    early = options.mask_rule == "library"
    small = (logits.sigmoid() if early else logits)[None]
    large = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)[0]
    inside = (large if early else large.sigmoid_()) > options.mask_threshold
    del large
    return inside.transpose(1, 2).contiguous().view(torch.uint8)


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
