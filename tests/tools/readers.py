"""Loads our exports with the tools that they are for, and prints as JSON what these found. Runs with their packages.

`python readers.py TOOL FOLDER`: the folder holds `photos` and the exports of one run of them, as `test_tools.py` makes
it. Masks are compared with those of results.jsonl, all of an image together.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

LABELS = (
    '<View><Image name="image" value="$image"/><BrushLabels name="label" toName="image">'
    '<Label value="red circle"/><Label value="square"/></BrushLabels></View>'
)


def ours(folder: Path) -> dict[str, list[Any]]:
    """The masks of each image's instances, by the image's name."""
    lines = map(json.loads, (folder / "out" / "results.jsonl").read_text().splitlines())
    return {
        line["path"]: [
            coco_mask.decode(instance["segmentation"]).astype(bool)
            for result in line["sam3_results"]
            for instance in result["instances"]
        ]
        for line in lines
    }


def together(masks: Any, shape: tuple[int, int]) -> Any:
    return np.any([np.zeros(shape, bool), *masks], axis=0)


def agreement(theirs: dict[str, list[Any]], folder: Path) -> dict[str, Any]:
    """Images and instances that a tool has found, and how well the masks of images with any agree with ours."""
    known, ious = ours(folder), []
    for name, masks in known.items():
        if masks:
            mine, other = together(masks, masks[0].shape), together(theirs[name], masks[0].shape)
            ious.append(float((mine & other).sum() / (mine | other).sum()))
    found = sum(map(len, theirs.values()))
    return {"images": len(theirs), "instances": found, "mean_iou": float(np.mean(ious)), "least_iou": min(ious)}


def ultralytics(folder: Path) -> dict[str, Any]:
    """Its dataset for training, without the changes that it makes to images at random."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    data = check_det_dataset(str(folder / "out" / "yolo-seg" / "data.yaml"))
    theirs: dict[str, list[Any]] = {}
    for part in ("train", "val"):
        for label in YOLODataset(img_path=data[part], data=data, task="segment", augment=False).labels:
            height, width = label["shape"]
            polygons = [segment * (width, height) for segment in label["segments"]]
            masks = [polygon2mask((height, width), [polygon.reshape(-1)]).astype(bool) for polygon in polygons]
            theirs[Path(label["im_file"]).name] = masks
    return agreement(theirs, folder)


def supervision(folder: Path) -> dict[str, Any]:
    from supervision import DetectionDataset

    yolo = folder / "out" / "yolo-seg"
    theirs: dict[str, list[Any]] = {}
    for part in ("train", "val"):
        images, labels = str(yolo / "images" / part), str(yolo / "labels" / part)
        dataset = DetectionDataset.from_yolo(images, labels, str(yolo / "data.yaml"), force_masks=True)
        for path, _, found in dataset:
            theirs[Path(path).name] = [] if found.mask is None else list(found.mask)
    return agreement(theirs, folder)


def pycolmap(folder: Path) -> dict[str, Any]:
    """Where it finds features: all images have a mask, and no feature lies where that is black."""
    import pycolmap as colmap

    masks, database = folder / "colmap" / "red_circle", folder / "colmap.db"
    options = colmap.ImageReaderOptions()
    options.mask_path = str(masks)
    colmap.extract_features(database, folder / "photos", reader_options=options)
    opened = colmap.Database.open(database)
    images = opened.read_all_images()
    inside = outside = 0
    for image in images:
        mask = np.asarray(Image.open(masks / f"{image.name}.png").convert("L"))
        for x, y, *_ in opened.read_keypoints(image.image_id):
            kept = mask[min(int(y), mask.shape[0] - 1), min(int(x), mask.shape[1] - 1)]
            inside, outside = inside + bool(kept), outside + (not kept)
    return {"images": len(images), "features": inside, "features_on_black": outside}


def label_studio(folder: Path) -> dict[str, Any]:
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    tasks, interface = json.loads((folder / "out" / "label-studio.json").read_text()), LabelInterface(LABELS)
    theirs: dict[str, list[Any]] = {}
    valid = 0
    for task in tasks:
        masks = theirs[os.path.basename(task["data"]["image"].replace("?d=", "/"))] = []
        for prediction in task["predictions"]:
            valid += bool(interface.validate_prediction(prediction))
            for result in prediction["result"]:
                shape = result["original_height"], result["original_width"], 4
                masks.append(np.reshape(decode_rle(result["value"]["rle"]), shape)[..., 3] > 0)
    return agreement(theirs, folder) | {"predictions": sum(len(task["predictions"]) for task in tasks), "valid": valid}


def labelme(folder: Path) -> dict[str, Any]:
    """Instances are the groups of its shapes."""
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    from labelme import utils
    from labelme._label_file import LabelFile

    theirs: dict[str, list[Any]] = {}
    shapes = 0
    for path in sorted((folder / "out" / "labelme").rglob("[!.]*.json")):
        file, known = LabelFile(str(path)), json.loads(path.read_text())
        size = known["imageHeight"], known["imageWidth"]
        groups: dict[int, list[Any]] = {}
        for number, shape in enumerate(file.shapes):
            group = -1 - number if shape["group_id"] is None else shape["group_id"]
            groups.setdefault(group, []).append(utils.shape_to_mask(size, shape["points"], shape_type="polygon"))
        shapes += len(file.shapes)
        theirs[Path(file.imagePath).name] = [np.any(parts, axis=0) for parts in groups.values()]
    return agreement(theirs, folder) | {"shapes": shapes}


def fiftyone(folder: Path) -> dict[str, Any]:
    """The recipe of docs/results.md, with the database server that fiftyone brings."""
    os.environ |= {"FIFTYONE_DATABASE_DIR": str(folder / "fiftyone"), "FIFTYONE_DO_NOT_TRACK": "1"}
    os.environ["FIFTYONE_DATABASE_VALIDATION"] = "false"
    import fiftyone

    page = Path(__file__).parents[2] / "docs" / "results.md"
    recipe = page.read_text().partition("## FiftyOne")[2].partition("```python\n")[2].partition("```")[0]
    os.chdir(folder)
    shutil.copy("out/coco.json", "coco.json")
    names: dict[str, Any] = {"fiftyone": fiftyone}
    exec(recipe, names)
    theirs: dict[str, list[Any]] = {}
    for sample in names["dataset"]:
        with Image.open(sample.filepath) as image:
            width, height = image.size
        masks = theirs[Path(sample.filepath).name] = []
        found = sample["ground_truth"]
        for detection in found.detections if found else ():
            mask = np.zeros((height, width), bool)
            x, y = round(detection.bounding_box[0] * width), round(detection.bounding_box[1] * height)
            rows, columns = detection.mask.shape
            mask[y : y + rows, x : x + columns] = detection.mask
            masks.append(mask)
    return agreement(theirs, folder)


def polars(folder: Path) -> dict[str, Any]:
    import polars as frames

    table = frames.read_parquet(folder / "out" / "results.parquet")
    results = table.explode("sam3_results").unnest("sam3_results")
    return {"images": table.height, "instances": int(results["instances"].list.len().sum())}


def datasets(folder: Path) -> dict[str, Any]:
    """Both files of rows, which must say the same."""
    import datasets as hub

    out, cache = folder / "out", str(folder / "datasets")
    table, lines = (
        hub.load_dataset(kind, data_files=str(out / name), cache_dir=cache, split="train")
        for kind, name in (("parquet", "results.parquet"), ("json", "results.jsonl"))
    )
    assert [row["path"] for row in table] == [row["path"] for row in lines]
    counts = [[[len(one["instances"]) for one in row["sam3_results"]] for row in rows] for rows in (table, lines)]
    assert counts[0] == counts[1]
    return {"images": len(table), "instances": sum(map(sum, counts[0]))}


TOOLS: dict[str, Callable[[Path], dict[str, Any]]] = {
    read.__name__: read
    for read in (ultralytics, supervision, pycolmap, label_studio, labelme, fiftyone, polars, datasets)
}

if __name__ == "__main__":
    print(json.dumps(TOOLS[sys.argv[1]](Path(sys.argv[2]))))
