"""Counts what a forward pass asks of a device, exactly and without one: torch's meta device computes shapes only.

Knows nothing of times. What would be read back from the device is made up by whoever counts.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.architecture import GRID, plain_loop
from workers.inference.boxes import Box
from workers.inference.models.sam3_model import Sam3Segmenter
from workers.inference.protocol import Options, Pixels

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
# What the plain loop asks for: the size of the features, and whether a prompt fills its tokens.
SCALARS = {torch.int64: GRID, torch.bool: False}
# Operations that make each number from one or a few others: what torch calls pointwise, and these, which move numbers.
MOVES = (aten._to_copy.default, aten.cat.default, aten.constant_pad_nd.default, aten.repeat_interleave.self_int,
         aten.stack.default)  # fmt: skip
ToHost = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Counts:
    """One piece of work. `waits`: how often the host would stand still until the device has done all it was given."""

    flops: int  # of matrix products, convolutions and attention: 2 a multiplication with addition
    kernels: int  # operations on the device that are more than another view of a tensor
    waits: int
    bytes_to_device: int
    bytes_from_device: int
    peak_bytes: int  # alive on the device at a time, without the weights
    elementwise_bytes: int  # read and written by operations that compute next to nothing: all time goes into memory


class MetaDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, the meta device stands for a GPU: it is counted what would wait for it, travel and be alive.

    `to_host` gives the values for a tensor that is copied to the host (zeros by default), `scalars` those that are
    asked for one by one, by type, and `found` is how many places a search or a selection by truth values finds.
    """

    def __init__(self, scalars: dict[torch.dtype, Any], found: int = 0, to_host: ToHost | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scalars, self._found = scalars, found
        self._to_host = to_host or (lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))
        self._alive: dict[int, int] = {}  # a storage's id and bytes
        self._bytes = 0
        self.kernels = self.waits = self.bytes_to_device = self.bytes_from_device = self.peak_bytes = 0
        self.elementwise_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._instead(func, args, kwargs)
        if result is NotImplemented:
            self._count_upload(func, args, kwargs)
            result = func(*args, **kwargs)
        self._note(func, args, result)
        return result

    def _instead(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of what a device that computes no values cannot do."""
        first = args[0] if args else None
        if not _on_device(first):
            return NotImplemented
        if func is aten._local_scalar_dense.default:
            self.waits += 1
            return self._scalars[first.dtype]
        if func is aten.nonzero.default:
            self.waits += 1
            return torch.empty(self._found, first.dim(), dtype=torch.long, device="meta")
        if func is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            self.waits += 1
            return first.new_empty(self._found, *first.shape[args[1][0].dim() :])
        if func is aten._to_copy.default and kwargs.get("device") == torch.device("cpu"):
            self.waits += 1
            self.bytes_from_device += first.nbytes
            return self._to_host(first)
        return NotImplemented

    def _count_upload(self, func: Any, args: Any, kwargs: Any) -> None:
        if func is aten._to_copy.default:
            uploaded = not _on_device(args[0]) and kwargs.get("device") == torch.device("meta")
            source, blocking = args[0], not kwargs.get("non_blocking", False)
        elif func is aten.copy_.default:
            uploaded = _on_device(args[0]) and not _on_device(args[1])
            source, blocking = args[1], not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        else:
            return
        if uploaded and source.dim():
            self.bytes_to_device += source.nbytes
            self.waits += blocking

    def _note(self, func: Any, args: Any, result: Any) -> None:
        made = [one for one in (result if isinstance(result, (tuple, list)) else [result]) if _on_device(one)]
        view = any(one.alias_info and not one.alias_info.is_write for one in func._schema.returns)
        if not view and (torch.Tag.pointwise in func.tags or func in MOVES):
            touched = [*tree_leaves(args), *made]
            self.elementwise_bytes += sum(one.nbytes for one in touched if _on_device(one))
        self.kernels += bool(made) and not view and "empty" not in func.__name__
        for tensor in made:
            storage = tensor.untyped_storage()
            if not view and id(storage) not in self._alive:
                self._alive[id(storage)] = storage.nbytes()
                self._bytes += storage.nbytes()
                weakref.finalize(storage, self._free, id(storage))
        self.peak_bytes = max(self.peak_bytes, self._bytes)

    def _free(self, storage: int) -> None:
        self._bytes -= self._alive.pop(storage)


class _Calls(TorchFunctionMode):
    """What a dispatch mode does not see as a GPU would: attention is one kernel that keeps no scores, and a tensor
    made of Python numbers travels."""

    def __init__(self, device: MetaDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and _on_device(args[0]):
            kwargs.pop("enable_gqa", None)
            return ATTENTION(*args, **kwargs)[0]
        result = func(*args, **kwargs)
        if func is torch.tensor and _on_device(result):
            self._device.waits += 1
            self._device.bytes_to_device += result.nbytes
        if func is torch.Tensor.__getitem__ and _on_device(args[0]) and _has_list(args[1]):
            self._device.waits += 1  # the places travel
        return result


def _has_list(index: Any) -> bool:
    return any(isinstance(one, list) for one in (index if isinstance(index, tuple) else (index,)))


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return cast(int, sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def count(work: Callable[[], Any], device: MetaDevice) -> Counts:
    """What `work` asks of the device."""
    # The FLOPs are counted on the inside: what the counter takes apart goes through `device` piece by piece.
    flops = FlopCounterMode(display=False, custom_mapping={ATTENTION: _attention_flops})
    with _Calls(device), device, flops:
        work()
    return Counts(
        flops.get_total_flops(),
        device.kernels,
        device.waits,
        device.bytes_to_device,
        device.bytes_from_device,
        device.peak_bytes,
        device.elementwise_bytes,
    )


def count_ours(
    segmenter: Sam3Segmenter,
    asked: Sequence[tuple[str, ...]],
    found: int,
    forward_only: bool = False,
    boxes: tuple[Box, ...] = (),
) -> Counts:
    """A batch of images that ask these prompts, of which each finds `found` instances; with or without their masks.
    Each image comes with these boxes.

    The segmenter is on the meta device. Text features and the library's tables of positions are in their caches, as in
    all batches but a run's first.
    """
    images = len(asked)
    count_texts(segmenter, [prompt for prompts in asked for prompt in prompts])
    _make_tables(segmenter._model, images)
    side = segmenter._model.config.vision_config.image_size
    pixels = Pixels(np.zeros((side, side, 3), np.uint8), 1080, 1920, boxes)

    def work() -> None:
        raw = segmenter.predict([pixels] * images, asked, Options())
        if not forward_only:
            segmenter.postprocess(raw, range(images), Options())

    return count(work, MetaDevice(SCALARS, to_host=partial(_scores, found=found)))


@torch.inference_mode()
def count_texts(segmenter: Sam3Segmenter, prompts: Sequence[str]) -> Counts:
    """To make the text features of those that are new."""
    return count(lambda: segmenter._texts.learn(prompts), MetaDevice(SCALARS))


def count_vision(model: Any, images: int = 1) -> Counts:
    """The vision encoder alone, its pixels on the device already; of any SAM3 on the meta device."""
    pixels = _make_tables(model, images)
    with torch.inference_mode():
        return count(lambda: model.get_vision_features(pixels), MetaDevice(SCALARS))


@torch.inference_mode()
def _make_tables(model: Any, images: int) -> torch.Tensor:
    """Of positions, for such a batch and in the precisions of this model; returns its pixels."""
    side = model.config.vision_config.image_size
    pixels = torch.empty(images, 3, side, side, device="meta")
    model.get_vision_features(pixels)
    return pixels


def _make_position_tables(model: Any) -> None:
    """Have the library make what it adds to the vision features of one image: it keeps that."""
    neck = model.vision_encoder.neck
    for side in (4 * GRID, 2 * GRID, GRID, GRID // 2):
        neck.position_encoding(torch.Size((1, 256, side, side)), torch.device("meta"), torch.float32)


def count_plain(model: Any, processor: Any, found: int) -> Counts:
    """The loop that people write, its masks brought to the host, for one image with one prompt."""
    picture = Image.new("RGB", (1920, 1080))
    _make_position_tables(model)

    def work() -> None:
        for result in plain_loop(model, processor, [picture], "person"):
            for value in result.values():
                value.cpu()

    return count(work, MetaDevice(SCALARS, found))


def _scores(tensor: torch.Tensor, found: int) -> torch.Tensor:
    """What is read of the heads, with so many scores above any threshold; masks that are empty."""
    values = torch.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.dim() == 2:
        values[:, : 1 + found] = 0.9
    return values


def _on_device(value: Any) -> TypeGuard[torch.Tensor]:
    return isinstance(value, torch.Tensor) and value.device.type == "meta"
