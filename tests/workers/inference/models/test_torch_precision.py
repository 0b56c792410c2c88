"""Which precision a device is given, and what a GPU's own precision is told to be."""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
import torch

from workers.inference.models import torch_precision
from workers.inference.segmenters import Precision

GPU, CPU = torch.device("cuda:1"), torch.device("cpu")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let a GPU be there, with or without units for bf16."""

    def put(has_bf16: bool) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return has_bf16 or including_emulation

        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")

    return put


@pytest.fixture
def products() -> Iterator[Callable[[], tuple[str, bool]]]:
    """What this process is told of products and of convolutions; put back afterwards."""

    def told() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = told()
    yield told
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_auto_is_mixed_where_a_gpu_has_units_for_bf16(card: Callable[[bool], None]) -> None:
    card(True)
    assert torch_precision.chosen("auto", GPU) == "mixed"


def test_auto_is_fp32_with_a_line_where_a_gpu_only_emulates_bf16(
    card: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    card(False)
    with caplog.at_level(logging.WARNING):
        assert torch_precision.chosen("auto", GPU) == "fp32"
    assert caplog.messages == ["Tesla T4 has no units for bf16: --dtype auto is fp32 here"]


def test_auto_is_fp32_on_a_cpu_and_what_is_asked_for_is_what_it_is(card: Callable[[bool], None]) -> None:
    card(False)
    assert torch_precision.chosen("auto", CPU) == "fp32"
    asked: list[Precision] = ["fp32", "mixed", "bf16"]
    assert [torch_precision.chosen(dtype, device) for dtype in asked for device in (GPU, CPU)] == [
        dtype for dtype in asked for _ in range(2)
    ]


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", ("highest", False)), ("mixed", ("high", True)),
                                                 ("bf16", ("high", True))])  # fmt: skip
@pytest.mark.parametrize("before", [True, False])
def test_products_and_convolutions_on_a_gpu_are_true_fp32_for_fp32_only_whatever_was_said_before(
    products: Callable[[], tuple[str, bool]], dtype: Precision, expected: tuple[str, bool], before: bool
) -> None:
    torch.backends.cudnn.allow_tf32 = before
    torch_precision.use_products(dtype, GPU)
    assert products() == expected


def test_products_on_a_cpu_are_left_alone(products: Callable[[], tuple[str, bool]]) -> None:
    before = products()
    torch_precision.use_products("mixed", CPU)
    assert products() == before
