"""Describes how the masks of an export were made, for formats that have a place for that. Knows no format."""

from dataclasses import asdict
from typing import Any

from producer.results.common import ExportRequest

_KEYS = {"threshold": "min_score"}  # of a choice: the run has a threshold, too


def provenance(request: ExportRequest) -> dict[str, Any]:
    """The run, its model and settings, and the choices of the export. There is no date, so that the same export gives
    the same bytes."""
    view = request.view
    asked = "text prompts" if view.frozen.points_per_side is None else "a grid of points"
    return {
        "description": f"run {view.name}, segmented by {asked}",
        "run": view.name,
        "image_root": view.source.root,
        **{name: value for name, value in asdict(view.frozen).items() if name != "classes"},
        "revision": view.revision,
        "weights_sha256": view.weights_sha256,
        "dtype": view.dtype,
        "compiled": view.compiled,
        "versions": view.versions,
        **{_KEYS.get(name, name): value for name, value in request.choice.record().items()},
        "partial": request.so_far,
        **({"only": list(request.only)} if request.only else {}),
        **({} if request.chosen is None else {"rows_chosen": len(request.chosen)}),
        **({} if request.command is None else {"command": request.command}),
    }
