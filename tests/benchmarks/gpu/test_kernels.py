"""The share of the time in which a device is busy, and the gaps, of kernels that are made up."""

import pytest

from benchmarks.gpu.kernels import Span, longest, summary

SPANS = [Span(0, 100, "gemm"), Span(100, 150, "softmax"), Span(120, 140, "copy"), Span(250, 400, "gemm")]


def test_time_without_a_kernel_is_a_gap_and_kernels_that_overlap_count_once() -> None:
    assert summary(SPANS, forwards=2) == {
        "kernels a batch": 2.0,
        "busy, share": pytest.approx(300 / 400),
        "longest gap, us": 100,
        "gaps over 50 us a batch": 0.5,
    }


def test_without_kernels_nothing_is_known() -> None:
    assert set(summary([]).values()) == {"n/a"}
    assert longest([]) == []


def test_the_longest_kernels_are_those_that_take_most_in_all() -> None:
    assert longest(SPANS, forwards=2) == [
        {"kernel": "gemm", "times a batch": 1.0, "ms a batch": 0.125},
        {"kernel": "softmax", "times a batch": 0.5, "ms a batch": 0.025},
        {"kernel": "copy", "times a batch": 0.5, "ms a batch": 0.01},
    ]
