"""Loads our exports with the tools that they are for, and prints as JSON what these found. Runs with their packages.

`python readers.py TOOL FOLDER`: the folder holds `photos`, and `nested` for trainers, each with exports of its run, as
`test_tools.py` makes it. Masks are compared with those of results.jsonl, all of an image together.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
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


def expected(images: Path, out: Path, class_name: str | None = None) -> dict[Path, Any]:
    """What the model found in each image, of one class or of all, as bool arrays."""
    lines = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    return {
        images / line["path"]: together(
            [
                coco_mask.decode(instance["segmentation"]).astype(bool)
                for result in line["sam3_results"]
                for instance in result["instances"]
                if class_name in (None, result["class"])
            ],
            (line["sam3_height"], line["sam3_width"]),
        )
        for line in lines
    }


def pairs(found: Iterator[tuple[Path, Any, Any]], truth: dict[Path, Any]) -> dict[str, int]:
    """Counts the images for which a trainer has a mask, one of the image's size, and the right one."""
    counts = {"images": len(truth), "paired": 0, "sizes": 0, "right": 0}
    for path, image, mask in found:
        shape = np.shape(image)[:2]
        counts["paired"] += 1
        counts["sizes"] += np.shape(mask) == shape
        counts["right"] += np.shape(mask) == shape and bool(np.array_equal(mask, truth[path]))
    return counts


def mmsegmentation(folder: Path) -> dict[str, Any]:
    """Label maps called `a.jpg.png`, of images that may differ in nothing but their suffix."""
    found = label_maps(folder / "nested", folder / "labels", lambda suffix: f"{suffix}.png")
    return pairs(found, expected(folder / "nested", folder / "trainers"))


def mmsegmentation_by_stem(folder: Path) -> dict[str, Any]:
    """Label maps called `a.png`, as its own settings expect them."""
    found = label_maps(folder / "photos", folder / "stems", lambda suffix: ".png")
    return pairs(found, expected(folder / "photos", folder / "out"))


def label_maps(images: Path, labels: Path, suffix_of: Callable[[str], str]) -> Iterator[tuple[Path, Any, Any]]:
    """Its dataset for training and its steps that load an image and its label map; one dataset a suffix."""
    # The compiled operations of mmcv are in no wheel on PyPI. Its models need this one, its datasets none.
    operations: Any = ModuleType("mmcv.ops")
    operations.point_sample = None
    sys.modules["mmcv.ops"] = operations
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    for suffix in (".jpg", ".png"):
        dataset = BaseSegDataset(
            data_prefix={"img_path": str(images), "seg_map_path": str(labels)},
            img_suffix=suffix,
            seg_map_suffix=suffix_of(suffix),
            metainfo={"classes": ("nothing", "red circle", "square")},
            pipeline=[LoadImageFromFile(), LoadAnnotations()],
        )
        for sample in dataset:
            yield Path(sample["img_path"]), sample["img"], sample["gt_seg_map"] > 0


def simpletuner(folder: Path) -> dict[str, Any]:
    """Its sampler, which finds an image of a masks' dataset for each image of the training dataset."""
    os.environ["SIMPLETUNER_LOG_LEVEL"] = "CRITICAL"
    sys.modules["torchaudio"] = ModuleType("torchaudio")  # imported by it, but used for sounds only
    from accelerate import Accelerator
    from simpletuner.helpers.data_backend.local import LocalDataBackend
    from simpletuner.helpers.metadata.backends.discovery import DiscoveryMetadataBackend
    from simpletuner.helpers.multiaspect.sampler import MultiAspectSampler
    from simpletuner.helpers.training import image_file_extensions
    from simpletuner.helpers.training.state_tracker import StateTracker

    here = Accelerator(cpu=True)

    def sampler(id: str, place: Path, kind: str | None = None) -> Any:
        backend, cache = LocalDataBackend(here, id), folder / "simpletuner" / id
        StateTracker.set_data_backend_config(id, {"crop": False, "resolution": 64, "resolution_type": "pixel"})
        metadata = DiscoveryMetadataBackend(
            id, str(place), f"{cache}-buckets", f"{cache}-facts", backend, here, 1, 64, "pixel"
        )
        made = MultiAspectSampler(id, metadata, backend, None, here, 1, conditioning_type=kind)
        StateTracker.data_backends[id] |= {"id": id, "sampler": made, "metadata_backend": metadata}
        return made

    StateTracker.set_args(SimpleNamespace(conditioning_multidataset_sampling="combined", output_dir=str(folder)))
    images = sampler("images", folder / "nested")
    sampler("masks", folder / "masks" / "square", "mask")
    StateTracker.set_conditioning_datasets("images", ["masks"])
    listed = images.data_backend.list_files(image_file_extensions, str(folder / "nested"))

    def found() -> Iterator[tuple[Path, Any, Any]]:
        for path in sorted({path for _, _, paths in listed for path in paths}):
            for sample in images.connect_conditioning_samples(({"image_path": path},))[1:]:
                yield Path(path), images.data_backend.read_image(path), np.asarray(sample.image)[..., 0] > 127

    return pairs(found(), expected(folder / "nested", folder / "trainers", "square"))


TOOLS: dict[str, Callable[[Path], dict[str, Any]]] = {
    read.__name__: read
    for read in (
        *(ultralytics, supervision, pycolmap, label_studio, labelme, fiftyone, polars, datasets),
        *(mmsegmentation, mmsegmentation_by_stem, simpletuner),
    )
}

if __name__ == "__main__":
    print(json.dumps(TOOLS[sys.argv[1]](Path(sys.argv[2]))))
