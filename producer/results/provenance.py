"""Describes how the masks of an export were made, for formats that have a place for that. Knows no format."""

from dataclasses import asdict
from typing import Any

from producer.results.common import ExportRequest


def provenance(request: ExportRequest) -> dict[str, Any]:
    """The run, its model and settings, and the choices of the export. There is no date, so that the same export gives
    the same bytes."""
    view = request.view
    return {
        "description": f"run {view.name}, segmented by text prompts",
        "run": view.name,
        "image_root": view.source.root,
        **asdict(view.frozen),
        "revision": view.revision,
        "weights_sha256": view.weights_sha256,
        "dtype": view.dtype,
        "compiled": view.compiled,
        "versions": view.versions,
        "min_score": request.min_score,
        "min_area": request.min_area,
        "max_instances": request.max_instances,
        "partial": request.so_far,
        **({"only": list(request.only)} if request.only else {}),
        **({} if request.chosen is None else {"rows_chosen": len(request.chosen)}),
    }
