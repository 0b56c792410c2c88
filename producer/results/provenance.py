"""Where the masks of an export come from, for formats that have a place to say it. Knows no format."""

from dataclasses import asdict
from typing import Any

from producer.results.common import ExportRequest


def provenance(request: ExportRequest) -> dict[str, Any]:
    """The run, its model and settings, and what was chosen for the export. No date, so that the same export gives the
    same bytes."""
    view = request.view
    return {
        "description": f"run {view.name}, segmented by text prompts",
        "run": view.name,
        "image_root": view.source.root,
        **asdict(view.frozen),
        "revision": view.revision,
        "weights_sha256": view.weights_sha256,
        "dtype": view.dtype,
        "versions": view.versions,
        "min_score": request.min_score,
        "partial": request.so_far,
    }
