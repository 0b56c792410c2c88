"""Makes the rows of formats with nested values, such as Parquet: one for each image or each instance. Knows no files.

The columns of the input come first, as in the CSV, then ours, which begin with `sam3_`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from db.states import ImageState
from db.values import ClassResult
from db.views.results import ExportedImage
from producer.results.common import ExportRequest, Summary, TellRows, counting, input_cells
from producer.results.exports.annotations import Annotation, annotations

Record = dict[str, Any]
GROUP_ROWS, GROUP_BYTES = 2048, 1 << 26  # a group of rows is written when it has so many, or so much of masks
IMAGE_COLUMNS = (
    "sam3_run", "sam3_row", "sam3_path", "sam3_status", "sam3_error_class", "sam3_error", "sam3_width", "sam3_height",
    "sam3_gone", "sam3_results",
)  # fmt: skip
INSTANCE_COLUMNS = (
    "sam3_run", "sam3_row", "sam3_path", "sam3_width", "sam3_height", "sam3_gone", "sam3_class", "sam3_presence",
    "sam3_capped", "sam3_score", "sam3_bbox", "sam3_predicted_box", "sam3_area", "sam3_segmentation",
)  # fmt: skip


class Records:
    """The rows that one export writes: one for each image, or with `request.flat` one for each instance."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self.columns = INSTANCE_COLUMNS if request.flat else IMAGE_COLUMNS
        source = request.view.source
        self.input_columns = source.columns  # none of them begins with sam3_
        self.input_types = source.types or dict.fromkeys(
            source.columns, "string"
        )  # by column, as the source tells them

    def write(
        self, images: Iterable[ExportedImage], progress: TellRows, write: Callable[[list[Record]], object]
    ) -> Summary:
        """Call `write` with all rows, a group at a time."""
        rows = instances = size = 0
        group: list[Record] = []
        for image in counting(images, progress):
            rows += 1
            for record in self.of(image):
                instances += _instances(record) if image.state == ImageState.DONE else 0
                group.append(record)
            size += sum(len(instance.rle) for result in image.results for instance in result.instances)
            if len(group) >= GROUP_ROWS or size >= GROUP_BYTES:
                write(group)
                group, size = [], 0
        if group:
            write(group)
        return Summary(rows, instances, 1, self._request.out)

    def of(self, image: ExportedImage) -> Iterator[Record]:
        """The rows of one image, with exactly `input_columns` and `columns` in this order.

        A duplicate has the results of its first row. If rows are instances it has no row, as people add these up.
        """
        view, flat = self._request.view, self._request.flat
        cells: Record = dict(zip(self.input_columns, input_cells(view, image), strict=True))
        found, facts = annotations(self._request, image), self._facts(image)
        if not flat:
            yield cells | _chosen(facts | {"sam3_results": self._results(image, found)}, self.columns)
            return
        for result, annotation in found if image.state != ImageState.DUPLICATE else ():
            told = {f"sam3_{name}": value for name, value in annotation.items()}
            told |= {"sam3_class": view.classes[result.class_id].name, "sam3_presence": _rounded(result.presence)}
            told["sam3_capped"] = result.capped
            yield cells | _chosen(facts | told, self.columns)

    def _facts(self, image: ExportedImage) -> Record:
        view = self._request.view
        return {
            "sam3_run": view.name,
            "sam3_row": image.row,
            "sam3_path": image.path,
            "sam3_status": image.status,
            "sam3_error_class": image.error_class,
            "sam3_error": image.error,
            "sam3_width": image.width,
            "sam3_height": image.height,
            "sam3_gone": image.gone,
        }

    def _results(self, image: ExportedImage, found: list[tuple[ClassResult, Annotation]]) -> list[Record]:
        of_class: dict[int, list[Annotation]] = {result.class_id: [] for result in image.results}
        for result, annotation in found:
            of_class[result.class_id].append(annotation)
        return [
            {
                "class": self._request.view.classes[result.class_id].name,
                "presence": _rounded(result.presence),
                "capped": result.capped,
                "instances": of_class[result.class_id],
            }
            for result in image.results
        ]


def end_with_ours(columns: Iterable[str]) -> bool:
    """Whether a table with these columns may be ours. One with another column after ours holds a person's work."""
    names = tuple(columns)
    return any(names[-len(ours) :] == ours for ours in (IMAGE_COLUMNS, INSTANCE_COLUMNS))


def _instances(record: Record) -> int:
    results = record.get("sam3_results")
    return 1 if results is None else sum(len(result["instances"]) for result in results)


def _chosen(facts: Record, columns: tuple[str, ...]) -> Record:
    return {column: facts[column] for column in columns}


def _rounded(probability: float) -> float:
    """Round to a millionth, which float32 can still tell apart."""
    return round(probability, 6)
