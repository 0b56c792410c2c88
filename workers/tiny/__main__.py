"""The demo's two ends: `write FOLDER` draws scenes, `compare FOLDER COCO` counts what a run found in them."""

import json
import sys
from collections import defaultdict
from pathlib import Path

from workers.tiny.demo import Rle, compare, read_truth, write_demo


def main(action: str, folder: Path, results: Path | None = None) -> None:
    if action == "write":
        print(f"{len(write_demo(folder))} scenes in {folder}")
    elif action == "compare" and results is not None:
        told = compare(read_truth(folder), found_in(results))
        matched = f"{told.matched} match at IoU 0.5, with a mean IoU of {told.mean_iou:.2f}"
        print(f"found {told.found} instances of {told.drawn} drawn: {matched}")
    else:
        sys.exit("usage: python -m workers.tiny write FOLDER | compare FOLDER COCO")


def found_in(coco: Path) -> dict[str, dict[str, list[Rle]]]:
    """File name -> prompt -> instances, of a COCO export; an image without any has an empty list for each prompt."""
    exported = json.loads(coco.read_text())
    prompts = {category["id"]: category["name"] for category in exported["categories"]}
    names = {image["id"]: image["file_name"] for image in exported["images"]}
    found: dict[str, dict[str, list[Rle]]] = defaultdict(lambda: {prompt: [] for prompt in prompts.values()})
    for name in names.values():
        found[name]
    for one in exported["annotations"]:
        found[names[one["image_id"]]][prompts[one["category_id"]]].append(one["segmentation"])
    return found


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
