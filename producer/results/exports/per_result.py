"""Names the files of formats that have one for each result or each instance. Knows no content."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from db.values import FoundInstance
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, class_slugs
from producer.results.exports.mask_folder import chosen
from producer.results.exports.mask_style import MaskStyle
from producer.results.files.folder_writer import Piece
from producer.results.files.names import mask_path
from producer.results.formats import Places

MakePiece = Callable[[ExportedImage, Path, Sequence[FoundInstance]], Piece]


def places(request: ExportRequest, template: str, *, whole: bool = False) -> Places | None:
    """The files of images; None if no two images or rows can want the same. `whole`: a file holds all of an image.

    Two rows of one image with prompts of their own want the same file if these prompts have one class.
    """
    view = request.view
    own, alike = len(view.prompts) > len(view.every_image), len(set(view.class_of.values())) < len(view.class_of)
    once = whole or (own and alike)
    if "{stem}" not in template and not once:
        return None
    return Places(partial(mask_path, "", root=view.source.root, template=template), once)


class PerResult:
    """Names the files. `folded`: see `names.mask_path`."""

    def __init__(self, request: ExportRequest, style: MaskStyle, *, folded: bool) -> None:
        self._request, self._style, self._folded = request, style, folded
        self._slugs = class_slugs(request.view)

    def pieces(self, image: ExportedImage, piece: MakePiece) -> list[Piece]:
        """`piece(image, file, instances)` for each result, or with `style.each` for each instance.

        With `each` a last piece removes the files of further instances that an earlier export wrote.
        """
        pieces: list[Piece] = []
        for result in image.results:
            instances = chosen(result.instances, self._request.select)
            target = partial(self.target, image, self._slugs[result.class_id])
            if self._style.each:
                pieces += [piece(image, target(n), [one]) for n, one in enumerate(instances, start=1)]
                last = len(instances) + 1
                pieces.append(Piece(target(last), "", None, after=map(target, itertools.count(last + 1))))
            else:
                pieces.append(piece(image, target(), instances))
        return pieces

    def target(self, image: ExportedImage, slug: str, n: int = 1) -> Path:
        """The file of an image below the folder `slug`, if it has several: the one with this number."""
        root, template = self._request.view.source.root, self._style.template.replace("{n}", str(n))
        place = mask_path(slug, image.path, root, folded=self._folded, template=template, twin=image.twin)
        return self._request.out / place
