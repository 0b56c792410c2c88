"""Sets in which precision each part of a loaded SAM3 computes. Knows no prompts and no images."""

import logging
from typing import Any

import torch
from torch.nn.attention import SDPBackend
from torch.utils._pytree import tree_map

from workers.inference.segmenters import Precision

log = logging.getLogger(__name__)


def chosen(dtype: Precision, device: torch.device) -> Precision:
    """The precision that `auto` means on this device: `mixed` on a GPU with units for bf16, else `fp32`. A GPU without
    them, such as a T4, a V100 or an RTX 20, emulates bf16, which is slower than fp32."""
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
    DETR encoder's self-attention, nine tenths of the work; docs/decisions.md says how these parts were chosen."""
    if dtype == "bf16":
        cast(model, torch.bfloat16)
    elif dtype == "mixed":
        cast(model.vision_encoder.backbone, torch.bfloat16)
        for layer in model.detr_encoder.layers:  # no fast kernel for this attention takes fp32
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


def attention_kernel(model: Any, device: torch.device) -> str:
    """The kernel that torch takes for the vision encoder's attention on this device, such as flash or cudnn.

    torch chooses, by device, precision and shape, and knows better than we do: its order is the one that its authors
    measured for each kind of GPU.
    """
    attention = model.vision_encoder.backbone.layers[0].attention
    shape = 1, attention.num_attention_heads, 64, attention.head_dim
    heads = torch.empty(shape, dtype=next(attention.parameters()).dtype, device=device)
    chosen = SDPBackend(torch._fused_sdp_choice(heads, heads, heads))
    return chosen.name.lower().removesuffix("_attention")


def cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights only. `module.to(dtype)` would also round the tables of positions, which the library keeps in
    fp32. The weights of batch normalisation stay fp32, as its running means and variances are."""
    for part in module.modules():
        if not isinstance(part, torch.nn.BatchNorm2d):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def use_products(dtype: Precision, device: torch.device) -> None:
    """Set how a GPU multiplies in fp32: exactly for `fp32`; for `mixed` and `bf16` with TF32, which takes a fraction of
    the time. torch's default for convolutions is TF32.

    The setting holds for the whole process, so it is set before each forward pass. torch has two interfaces for it, and
    raises an error if the older one is read after the newer one was used; so the older one is used everywhere.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if dtype == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = dtype != "fp32"
