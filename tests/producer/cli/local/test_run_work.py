"""Where a sam3-run keeps what its next run on this machine needs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from producer.cli.local.run_work import _compiled_folder


@pytest.mark.parametrize("named", [True, False])
def test_compiled_kernels_of_a_run_are_kept_outside_of_its_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """In the user's state folder, or in the one that --state-dir names."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "named" if named else tmp_path / "out" / ".sam3"
    found: Any = SimpleNamespace(folder=Path("out"), settings=SimpleNamespace(state_dir=state))
    assert _compiled_folder(found) == (None if named else tmp_path / "state" / "sam3-queue" / "compiled")
