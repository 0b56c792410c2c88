"""Processes that train together take the same steps."""

import json
from pathlib import Path

import pytest
import torch

from workers.tiny import together


def meet(folder: Path) -> None:
    """Give each process a gradient and a time of its own; write what they have after they met."""
    own = together.share() + 1.0
    moved, still = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    moved.grad = torch.full((3, 2), own).T  # laid out otherwise than its parameter, as those of convolutions are
    together.average_gradients([moved, still])
    got = {"gradient": moved.grad.tolist(), "still": still.grad, "seconds": together.agreed(own)}
    (folder / f"{together.share()}.json").write_text(json.dumps(got))


@pytest.mark.long
def test_two_processes_get_the_mean_of_their_gradients_and_the_time_of_the_first(tmp_path: Path) -> None:
    together.run(2, meet, tmp_path)
    first, second = (json.loads((tmp_path / f"{share}.json").read_text()) for share in range(2))
    assert first == second == {"gradient": [[1.5] * 3] * 2, "still": None, "seconds": 1.0}


def test_a_process_alone_keeps_what_it_has(tmp_path: Path) -> None:
    meet(tmp_path)
    assert json.loads((tmp_path / "0.json").read_text())["gradient"] == [[1.0] * 3] * 2
