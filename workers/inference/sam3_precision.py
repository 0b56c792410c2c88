"""In which precision a loaded SAM3 computes, part by part. Knows no prompts and no images."""

import logging
from typing import Any

import torch
from torch.utils._pytree import tree_map

from workers.inference.segmenters import Precision

log = logging.getLogger(__name__)


def chosen(dtype: Precision, device: torch.device) -> Precision:
    """What `auto` means on this device: `mixed` on a GPU with units for bf16. One without them, such as a T4, a V100 or
    an RTX 20, computes it all the same, but slower than fp32."""
    if dtype != "auto":
        return dtype
    if device.type != "cuda":
        return "fp32"
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "mixed"
        log.warning("%s has no units for bf16: --dtype auto is fp32 here", torch.cuda.get_device_name())
    return "fp32"


def lower(model: Any, dtype: Precision) -> None:
    """Cast the weights of a model that was loaded in fp32. `mixed` is bf16 for the vision encoder's backbone and the
    DETR encoder's self-attention, nine tenths of the work; each part was judged by masks (docs/decisions.md)."""
    if dtype == "bf16":
        cast(model, torch.bfloat16)
    elif dtype == "mixed":
        cast(model.vision_encoder.backbone, torch.bfloat16)
        for layer in model.detr_encoder.layers:  # of all places of an image with all: no fast kernel takes fp32
            cast(layer.self_attn, torch.bfloat16)
            layer.self_attn.register_forward_pre_hook(_given_in_bf16, with_kwargs=True)
            layer.self_attn.register_forward_hook(_answered_in_fp32)


def _given_in_bf16(part: Any, args: Any, kwargs: Any) -> Any:
    return tree_map(_to_bf16, args), tree_map(_to_bf16, kwargs)


def _answered_in_fp32(part: Any, args: Any, answer: Any) -> Any:
    return tree_map(_to_fp32, answer)


def _to_bf16(value: Any) -> Any:
    return value.to(torch.bfloat16) if _is_fp32(value) else value


def _to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


def _is_fp32(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights only. `module.to(dtype)` would also round the tables of positions, which the library keeps
    in fp32. So are the sums of batches, and what they are normalised with must be as they are."""
    for part in module.modules():
        if not isinstance(part, torch.nn.BatchNorm2d):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def use_products(dtype: Precision, device: torch.device) -> None:
    """Let a GPU's products and convolutions of fp32 be true ones, or, where other parts are bf16 anyway, TF32, which
    takes a fraction of the time. The library's own convolutions are TF32.

    This holds for the whole process, so it is said before each forward pass. Of torch's two ways to say it this is the
    older one: whoever asks by the older one after the newer was used gets an error.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if dtype == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = dtype != "fp32"
