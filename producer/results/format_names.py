"""Which export formats there are: values of --format, and the modules that declare them. Knows nothing else of any.

A new format is a file in `producer/results/exports` that declares `FORMAT`, and a line in `MODULES`.
"""

from importlib import import_module
from typing import Any

# Value of --format -> module that declares it. A module is imported when it is needed, so that --help stays quick.
MODULES = {
    "csv": "producer.results.exports.csv_file",
    "coco": "producer.results.exports.coco",
    "coco-results": "producer.results.exports.coco_results",
    "jsonl": "producer.results.exports.jsonl",
    "parquet": "producer.results.exports.parquet",
    "png": "producer.results.exports.png",
    "cutout": "producer.results.exports.cutout",
    "label-studio": "producer.results.exports.label_studio",
    "labelme": "producer.results.exports.labelme",
    "webdataset": "producer.results.exports.webdataset",
    "yolo-seg": "producer.results.exports.yolo",
}


def declaration(name: str) -> Any:
    """The `FORMAT` that the module of this format declares, a `producer.results.formats.Format`."""
    return import_module(MODULES[name]).FORMAT
