"""What tests of whole `sam3-run`s share: flags for a model that needs no weights, and pictures."""

from pathlib import Path

from PIL import Image

from tests.terminals import Terminal
from workers.tiny.demo import write_demo

FAKE = ("--prompt", "person", "--model", "any/model", "--gpus", "cpu")
SLOW = {"FAKE_SECONDS_PER_IMAGE": "0.25"}


def pictures(home: Path) -> list[str]:
    """Four scenes with a red circle below `home`, JPEG and PNG, one of them in a folder of its own, in no order."""
    truth = write_demo(home / "photos", count=40, seed=11)
    drawn = sorted((name for name in truth if truth[name]["red circle"]), reverse=True)[:4]
    for name in truth.keys() - set(drawn):
        (home / "photos" / name).unlink()
    (home / "photos" / drawn[1]).rename(home / "photos" / "more" / drawn[1])
    return [drawn[0], f"more/{drawn[1]}", drawn[3], drawn[2]]


def squares(here: Terminal, count: int) -> None:
    for number in range(count):
        Image.new("RGB", (40, 40), "white").save(here.home / "photos" / f"{number:03}.png")
