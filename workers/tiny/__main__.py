"""The first and the last step of the demo: `write FOLDER` draws scenes, `compare FOLDER COCO` counts what a run found.

Knows no model.
"""

import json
from collections import defaultdict
from pathlib import Path

import click

from workers.tiny.demo import Rle, compare, read_truth, write_demo


@click.group()
def main() -> None:
    """Draw scenes for the bundled tiny model, and count what a run found in them."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def write(folder: Path) -> None:
    """Draw the demo's scenes into FOLDER."""
    click.echo(f"{len(write_demo(folder))} scenes in {folder}")


@main.command(name="compare")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("coco", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def compare_with(folder: Path, coco: Path) -> None:
    """Compare what was drawn into FOLDER with a COCO export of a run over it."""
    try:
        told = compare(read_truth(folder), found_in(coco))
    except (OSError, KeyError, ValueError):
        raise click.ClickException(
            f"{coco} is no COCO export of a run over scenes that were drawn into {folder}"
        ) from None
    matched = f"{told.matched} match at IoU 0.5, with a mean IoU of {told.mean_iou:.2f}"
    click.echo(f"found {told.found} instances of {told.drawn} drawn: {matched}")


def found_in(coco: Path) -> dict[str, dict[str, list[Rle]]]:
    """Read a COCO export: file name -> prompt -> masks. An image has an empty list for a prompt that was not found."""
    exported = json.loads(coco.read_text())
    prompts = {category["id"]: category["name"] for category in exported["categories"]}
    names = {image["id"]: image["file_name"] for image in exported["images"]}
    found: dict[str, dict[str, list[Rle]]] = defaultdict(lambda: {prompt: [] for prompt in prompts.values()})
    for name in names.values():
        found[name]
    for annotation in exported["annotations"]:
        found[names[annotation["image_id"]]][prompts[annotation["category_id"]]].append(annotation["segmentation"])
    return found


if __name__ == "__main__":
    main(prog_name="python -m workers.tiny")
