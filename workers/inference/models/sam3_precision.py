"""Sets in which precision each part of a loaded SAM3 computes. Knows no prompts and no images."""

from typing import Any

import torch
from torch.nn.attention import SDPBackend

from workers.inference.models.torch_precision import cast, in_bf16
from workers.inference.segmenters import Precision


def lower(model: Any, dtype: Precision) -> None:
    """Cast the weights of a model that was loaded in fp32. `mixed` is bf16 for the vision encoder's backbone and the
    DETR encoder's self-attention, nine tenths of the work; docs/forward-pass.md says how these parts were chosen."""
    if dtype == "bf16":
        cast(model, torch.bfloat16)
    elif dtype == "mixed":
        cast(model.vision_encoder.backbone, torch.bfloat16)
        for layer in model.detr_encoder.layers:  # no fast kernel for this attention takes fp32
            in_bf16(layer.self_attn)


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
