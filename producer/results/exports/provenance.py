"""Describes how the masks of an export were made, and of which classes they are. Knows no format and no file."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from producer.results.common import ExportRequest, class_slugs

_KEYS = {"threshold": "min_score"}  # of a choice: the run has a threshold, too


def provenance(request: ExportRequest) -> dict[str, Any]:
    """The run, its model and settings, and the choices of the export. There is no date, so that the same export gives
    the same bytes."""
    view = request.view
    asked = "a grid of points" if view.frozen.looks_for_everything else "text prompts"
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


def categories(request: ExportRequest, ids: Mapping[int, int] | None = None) -> list[dict[str, Any]]:
    """The classes as categories of COCO; `slug` is the name of the class in the files and columns of other formats.

    `prompts` are the wordings of a class, if they are not its name. `ids` are other numbers, for some classes only.
    """
    view, wordings = request.view, defaultdict[int, list[str]](list)
    for prompt_id, class_id in view.class_of.items():
        wordings[class_id].append(view.prompts[prompt_id])
    slugs = class_slugs(view)
    return [
        {"id": number, "name": (one := view.classes[id]).name, "supercategory": "prompt", "slug": slugs[id]}
        | ({} if one.colour is None else {"color": list(one.colour)})
        | ({} if wordings[id] in ([], [one.name]) else {"prompts": wordings[id]})
        for id, number in (ids or {id: id for id in view.classes}).items()
    ]
