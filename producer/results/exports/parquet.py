"""Exports a run as one Parquet file, with nested results or with one row for each instance. Knows no SQL, no pixels.

The format: https://parquet.apache.org/docs/file-format/.
"""

import json
import os
from collections.abc import Iterable
from typing import Any, BinaryIO

from db.views.results import ExportedImage
from producer.layout import TABLE_ORIGIN
from producer.results.common import ExportRequest, Summary, TellRows
from producer.results.exports.provenance import provenance
from producer.results.exports.records import Record, Records, end_with_ours
from producer.results.formats import FLAT, Format

MAGIC = b"PAR1"  # first and last bytes of a Parquet file


def export_parquet(request: ExportRequest, images: Iterable[ExportedImage], progress: TellRows) -> Summary:
    """Write the rows of `exports.records`. The metadata have under `sam3-queue` what COCO has in `info`.

    Raises `UsageError` when the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    from producer.sources.parquet.arrow_types import column_of, type_of

    records = Records(request)
    origin = json.dumps(provenance(request), ensure_ascii=False)
    types = records.input_types
    ours = _schema(records)
    inputs = [(column, type_of(text)) for column, text in types.items()]
    schema = pa.schema([*inputs, *ours]).with_metadata({TABLE_ORIGIN: origin})

    with (
        request.files.replacing(request.out) as temporary,
        parquet.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):

        def write(group: list[Record]) -> None:
            columns = [column_of([record[column] for record in group], text) for column, text in types.items()]
            columns += pa.Table.from_pylist(group, ours).combine_chunks().columns
            file.write_table(pa.Table.from_arrays(columns, schema=schema))

        return records.write(images, progress, write)


def _schema(records: Records) -> Any:
    """The type of each column of ours."""
    import pyarrow as pa

    numbers, whole = pa.list_(pa.float64()), pa.list_(pa.int32())
    annotation = {
        "bbox": whole,
        "area": pa.int64(),
        "segmentation": pa.struct({"size": whole, "counts": pa.string()}),
        "score": pa.float64(),
        "predicted_box": numbers,
    }
    result = {
        "class": pa.string(),
        "presence": pa.float64(),
        "capped": pa.bool_(),
        "instances": pa.list_(pa.struct(annotation)),
    }
    types = {
        "row": pa.int64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "gone": pa.bool_(),
        "results": pa.list_(pa.struct(result)),
        **annotation,
        **{name: result[name] for name in ("class", "presence", "capped")},
    }
    return pa.schema([(column, types.get(column.removeprefix("sam3_"), pa.string())) for column in records.columns])


def is_ours(file: BinaryIO) -> bool:
    """Whether the metadata, which are at the end of the file, have our key, and our columns are the last ones.

    A program that adds a column may keep the metadata. Without pyarrow no file is known as ours.
    """
    if file.read(len(MAGIC)) != MAGIC or (size := file.seek(0, os.SEEK_END)) < 3 * len(MAGIC):
        return False
    end = file.seek(size - 8)
    length = int.from_bytes(file.read(4), "little")
    if file.read(len(MAGIC)) != MAGIC or length > end:
        return False
    file.seek(end - length)
    # 0x18: type of Thrift for the text that is the key's value
    return TABLE_ORIGIN.encode() + b"\x18" in file.read(length) and _ends_with_our_columns(file)


def _ends_with_our_columns(file: BinaryIO) -> bool:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        return False
    file.seek(0)
    try:
        return end_with_ours(parquet.read_schema(file).names)
    except (pa.ArrowException, OSError):
        return False


FORMAT = Format(export_parquet, is_ours, ".parquet", takes=FLAT, needs=("pyarrow",), extra="parquet")
