"""Progress of long work where there is no terminal."""

import pytest

from producer.cli.progress import Meter


def test_off_a_terminal_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("exporting", "images") as meter:
        for done in range(1000):
            meter.tell(done, 1000)

    assert capsys.readouterr() == ("", "")


def test_off_a_terminal_long_work_says_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("producer.cli.progress.time.monotonic", lambda: next(clock))

    with Meter("exporting", "images") as meter:
        for done in range(0, 6000, 1000):
            meter.tell(done, 12_000, "nearly there" if done > 3000 else None)

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["exporting: 2,000/12,000 images", "nearly there"]
