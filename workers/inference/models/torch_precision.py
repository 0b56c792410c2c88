"""The precision of weights and of products: which one a device is given, and how torch is told. Knows no model."""

import logging
from typing import Any

import torch
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


def cast(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights only. `module.to(dtype)` would also round the tables of positions, which the library keeps in
    fp32. The weights of batch normalisation stay fp32, as its running means and variances are."""
    for part in module.modules():
        if not isinstance(part, torch.nn.BatchNorm2d):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def in_bf16(part: torch.nn.Module) -> None:
    """Let this part of a model compute in bf16. What it is given and what it answers stay fp32."""
    cast(part, torch.bfloat16)
    part.register_forward_pre_hook(_given_in_bf16, with_kwargs=True)
    part.register_forward_hook(_answered_in_fp32)


def settle(model: Any, dtype: Precision, device: torch.device) -> None:
    """Bring a model with a `vision_encoder` to the device, with its weights in this precision: `mixed` is bf16 for the
    encoder's backbone alone, `bf16` is all of it, with the tables of positions, which the code of SAM2 and of SAM3's
    tracker needs in the precision of the weights."""
    if dtype == "mixed":
        in_bf16(model.vision_encoder.backbone)
    elif dtype == "bf16":
        model.to(torch.bfloat16)
    model.to(device)


def _given_in_bf16(part: Any, args: Any, kwargs: Any) -> Any:
    """A tensor that is given twice is cast once, so that it can be known as the same."""
    made: dict[int, torch.Tensor] = {}

    def once(value: Any) -> Any:
        if not _is_fp32(value):
            return value
        if id(value) not in made:
            made[id(value)] = value.to(torch.bfloat16)
        return made[id(value)]

    return tree_map(once, args), tree_map(once, kwargs)


def _answered_in_fp32(part: Any, args: Any, answer: Any) -> Any:
    return tree_map(_to_fp32, answer)


def _to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value


def _is_fp32(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def use_products(dtype: Precision, device: torch.device) -> None:
    """Set how a GPU multiplies in fp32: exactly for `fp32`; for `mixed` and `bf16` with TF32, which takes a fraction of
    the time. torch's default for convolutions is TF32.

    The setting holds for the whole process, so it is set before each forward pass. torch has two interfaces for it, and
    raises an error if the older one is read after the newer one was used; so the older one is used everywhere.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if dtype == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = dtype != "fp32"
