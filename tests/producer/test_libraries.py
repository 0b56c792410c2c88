"""Which libraries are installed."""

import sys
from types import ModuleType

import pytest

from producer.libraries import is_installed


def test_a_library_that_another_thread_is_importing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV's module has no spec for a moment."""
    half = ModuleType("half")
    assert half.__spec__ is None
    monkeypatch.setitem(sys.modules, "half", half)
    assert is_installed("half")
    assert is_installed("json")
    assert not is_installed("no_such_library")
