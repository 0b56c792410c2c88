"""Counts what a forward pass asks of a GPU once torch's compiler has fused its kernels, exactly and without a GPU:
`python -m benchmarks.compiled`, two minutes.

The compiler gets a model whose tensors are fake and claim to be on an H100, and is stopped when it has decided which
operations share a kernel. Knows nothing of times. Leans on parts of torch that are not public, so it is right for the
release of torch that `constraints.txt` pins.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config, ir, scheduler
from torch._inductor.compile_fx import compile_fx
from torch._inductor.graph import GraphLowering
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.architecture import full_size, segmenter_of
from benchmarks.counting import count_ours, count_vision
from benchmarks.timing import Row, table
from workers.inference.models import sam3_parts
from workers.inference.models.sam3_precision import lower
from workers.inference.models.sam3_texts import PADDED
from workers.inference.segmenters import Precision

PRECISIONS: tuple[Precision, ...] = ("mixed", "fp32")
aten = torch.ops.aten
PURPOSES = {  # and an operation that is in such kernels only, of those that are left
    "behind convolutions: bias, GELU, order": aten.convolution.default,
    "GELU of a layer": aten.erf.default,
    "sum and normalisation": aten.var_mean.correction,
    "turning of queries and keys": aten.unbind.int,
}
H100 = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    warp_size=32,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    total_memory=80 * 2**30,
    L2_cache_size=50 * 2**20,
    gcnArchName="",
)


@dataclass(frozen=True)
class Fused:
    """What one compiled graph asks of the device."""

    library: int  # kernels of cuBLAS, cuDNN and the like: products, convolutions, attention
    made: int  # kernels that the compiler makes
    moved: dict[str, int]  # bytes that these read and write, by what they do; each tensor of a kernel counts once

    @property
    def bytes(self) -> int:
        """All that are read and written."""
        return sum(self.moved.values())

    @property
    def kernels(self) -> int:
        """All that are launched."""
        return self.library + self.made


class _Decided(BaseException):
    """Stops the compiler, which has decided. No `Exception`, since it wraps those."""

    def __init__(self, fused: Fused) -> None:
        super().__init__()
        self.fused = fused


class _See(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *given: Any) -> Any:
        return sam3_parts.see(self.model, *given)


class _Find(_See):
    def forward(self, *given: Any) -> Any:
        return sam3_parts.find(self.model, *given)


def count_parts(model: Any, images: int, names: Sequence[str] = ("see", "find")) -> dict[str, Fused]:
    """Of the vision encoder (`see`) and the heads (`find`), for a batch of so many images with one prompt each.

    The model is on the meta device, and in fake memory afterwards.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _pretend(model, mode)
    side, width = model.config.vision_config.image_size, model.config.detr_encoder_config.hidden_size
    with mode, torch.device("cuda"), torch.no_grad():
        pixels = torch.empty(images, 3, side, side, memory_format=torch.channels_last)  # as they come
        text, mask = torch.empty(images, PADDED, width), torch.empty(images, PADDED, dtype=torch.bool)
        with _on_an_h100():
            features = sam3_parts.see(model, pixels)
    parts = {"see": (_See(model), (pixels,)), "find": (_Find(model), (features, text, mask))}
    return {name: _count(*parts[name], mode) for name in names}


def _pretend(model: Any, mode: FakeTensorMode) -> None:
    """Replace all weights and tables by fake ones on a GPU."""

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        with mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")

    for part in model.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, torch.nn.Parameter(fake(parameter), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = fake(buffer)


def _count(part: torch.nn.Module, given: tuple[Any, ...], mode: FakeTensorMode) -> Fused:
    with _on_an_h100(), torch.no_grad(), mode:
        exported = torch.export.export(part, given, strict=False)
        own = {**exported.state_dict, **exported.constants}
        leaves = iter(torch.utils._pytree.tree_leaves(given))
        inputs = [own[one.target] if one.target else next(leaves) for one in exported.graph_signature.input_specs]
        try:
            compile_fx(exported.graph_module, inputs)
        except _Decided as decided:
            return decided.fused
    raise AssertionError("the compiler was not stopped")


def _stop(graph: GraphLowering) -> None:
    graph._update_scheduler()
    nodes = [node for node in graph.scheduler.nodes if _is_launched(node)]
    made = [node for node in nodes if not isinstance(node, scheduler.ExternKernelSchedulerNode)]
    moved: Counter[str] = Counter()
    for node in made:
        moved[_purpose(node)] += node.get_read_write_buffers_sizes()
    raise _Decided(Fused(len(nodes) - len(made), len(made), dict(moved)))


def _purpose(kernel: Any) -> str:
    """What a kernel that the compiler made is there for, by the operations that went into it."""
    origins = [origin for node in kernel.get_nodes() if node.node for origin in node.node.get_origins()]
    done = {origin.target for origin in origins}
    return next((purpose for purpose, operation in PURPOSES.items() if operation in done), "other")


def _is_launched(node: Any) -> bool:
    """Not so what only names one of several results of a kernel."""
    return not isinstance(node, scheduler.NopKernelSchedulerNode) and not isinstance(node.node, ir.MultiOutput)


def _attend(query: Any, key: Any, value: Any, attn_mask: Any = None, *, scale: float | None = None, **_: Any) -> Any:
    """One kernel, as a GPU has it: flash for bf16 without a mask, else the one that saves memory."""
    if attn_mask is None and query.dtype == torch.bfloat16:
        return aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, -torch.inf).to(query.dtype)
    return aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, False, scale=scale)[0]


def _order(pixels: torch.Tensor, weight: torch.Tensor, backend: Any) -> torch.memory_format:
    """In which order cuDNN writes the answer of a convolution: as one of its inputs has it."""
    last = torch.channels_last
    return last if last in map(suggest_memory_format, (pixels, weight)) else torch.contiguous_format


@contextmanager
def _on_an_h100() -> Iterator[None]:
    """While the compiler asks for the GPU, it is told of an H100."""
    with ExitStack() as stack:
        for place, name, instead in (
            (torch.cuda, "get_device_properties", lambda *_: H100),
            (torch.cuda, "get_device_capability", lambda *_: (H100.major, H100.minor)),
            (torch.cuda, "current_device", lambda: 0),
            (torch._inductor.compile_fx, "_check_triton_bf16_support", lambda _: None),
            (CudaInterface, "get_device_properties", lambda *_: H100),
            (CudaInterface.Worker, "get_device_properties", lambda *_: H100),
            (scheduler, "has_triton", lambda *_: True),
            (GraphLowering, "codegen", _stop),
            (torch.nn.functional, "scaled_dot_product_attention", _attend),
            (torch._C, "_conv_determine_backend_memory_format", _order),
        ):
            stack.enter_context(mock.patch.object(place, name, instead))
        # Folding constants computes them, which needs a GPU.
        stack.enter_context(config.patch(joint_graph_constant_folding=False))
        yield


def measure() -> tuple[list[Row], list[Row]]:
    """Kernels of a batch of one image with one prompt, by precision; and what the compiled vision encoder moves."""
    rows = []
    compiled: dict[Precision, Fused] = {}
    moved: dict[Precision, int] = {}  # by the library's vision encoder
    for precision in PRECISIONS:
        library, _ = full_size("meta")
        lower(library, precision)
        moved[precision] = _normalised(library) + count_vision(library).elementwise_bytes
        segmenter = segmenter_of(*full_size("meta"), "meta", precision)
        vision = count_vision(segmenter._model).kernels
        heads = count_ours(segmenter, [("cat",)], found=10, forward_only=True).kernels - vision
        parts = count_parts(segmenter._model, images=1)
        compiled[precision] = parts["see"]
        row = {"": precision, "vision encoder": vision, "compiled": parts["see"].kernels}
        rows.append(row | {"heads": heads, "heads, compiled": parts["find"].kernels})
    kinds = [*PURPOSES, "other"]
    in_gb = [{"GB": kind} | {one: compiled[one].moved.get(kind, 0) / 1e9 for one in PRECISIONS} for kind in kinds]
    in_gb.append({"GB": "all"} | {one: compiled[one].bytes / 1e9 for one in PRECISIONS})
    in_gb.append({"GB": "the library's, uncompiled"} | {one: moved[one] / 1e9 for one in PRECISIONS})
    return rows, in_gb


def _normalised(model: Any) -> int:
    """Bytes that the normalisations of the vision encoder read and write, which are not counted as elementwise."""
    seen: list[int] = []
    for part in model.vision_encoder.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.register_forward_hook(lambda _, given, made: seen.append(given[0].nbytes + made.nbytes))
    count_vision(model)  # runs it twice
    return sum(seen) // 2


def main() -> None:
    """Print the tables."""
    print(*map(table, measure()), sep="\n\n")


if __name__ == "__main__":
    main()
