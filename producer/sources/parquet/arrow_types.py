"""Turns columns of Arrow into cells, values as JSON has them, and back into columns of the same type. Knows no files.

Needs pyarrow, the extra `parquet`. The text of a type is Arrow's name of it, such as `int64`, or `json` for what can be
kept only as JSON, or begins with `arrow:` and holds Arrow's own message about a type that has no simple name.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyarrow import compute
from pyarrow import types as kinds

from db.columns import to_json

JSON = "json"
_MESSAGE = "arrow:"
_DAY = "1970-01-01 "  # Arrow reads a time of day only as a part of a date


def is_kept(type_: pa.DataType) -> bool:
    """Whether cells of this type are kept. Bytes are not: they may be whole images."""
    if kinds.is_nested(type_):
        return all(is_kept(type_.field(index).type) for index in range(type_.num_fields))
    return not (kinds.is_binary(type_) or kinds.is_large_binary(type_) or kinds.is_fixed_size_binary(type_))


def type_text(type_: pa.DataType) -> str:
    """The text that stands for a type. A dictionary becomes the type of its values."""
    plain = _plain(type_)
    if not _returns(plain):
        return JSON
    try:
        if pa.type_for_alias(str(plain)) == plain:
            return str(plain)
    except ValueError:  # no simple name
        pass
    message = pa.schema([pa.field("", plain)]).serialize().to_pybytes()
    return _MESSAGE + base64.b64encode(message).decode()


def type_of(text: str) -> pa.DataType:
    """The type of a column that is written: text for `json`."""
    if text == JSON:
        return pa.string()
    if text.startswith(_MESSAGE):
        message = base64.b64decode(text.removeprefix(_MESSAGE))
        return pa.ipc.read_schema(pa.py_buffer(message)).field(0).type
    return pa.type_for_alias(text)


def values_of(array: pa.Array) -> list[Any]:
    """The cells of a column: times and decimals as text, durations as numbers of their unit."""
    array = _plain_array(array)
    plain = array.type
    if not _returns(plain):
        return [json.loads(json.dumps(value, default=str)) for value in array.to_pylist()]
    carrier = _carrier(plain)
    return list((array if carrier == plain else array.cast(carrier)).to_pylist())


def is_printable(array: pa.Array) -> bool:
    """Whether no text of a column has a character that is not printable. True for columns of other types."""
    plain = _plain_array(array)
    if not is_text(plain.type):
        return True
    return compute.all(compute.utf8_is_printable(plain.cast(pa.large_string()))).as_py() is not False


def column_of(cells: Sequence[Any], text: str) -> pa.Array:
    """The column of these cells, of type `type_of(text)`.

    A cell that does not fit becomes null: rows that are no longer in a source may be of a time when the column had
    another type.
    """
    try:
        return _column(cells, text)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return _column([cell if _fits(cell, text) else None for cell in cells], text)


def _fits(cell: Any, text: str) -> bool:
    try:
        _column([cell], text)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _column(cells: Sequence[Any], text: str) -> pa.Array:
    type_ = type_of(text)
    if text == JSON:
        return pa.array([None if cell is None else to_json(cell) for cell in cells], type_)
    if is_text(type_):
        return pa.array([cell if cell is None or isinstance(cell, str) else to_json(cell) for cell in cells], type_)
    if kinds.is_time(type_):
        moments = pa.array([None if cell is None else f"{_DAY}{cell}" for cell in cells], pa.string())
        return moments.cast(pa.timestamp(type_.unit)).cast(type_)
    return pa.array(cells, _carrier(type_)).cast(type_)


def _carrier(type_: pa.DataType) -> pa.DataType:
    """The type by way of which cells become a column and back."""
    if kinds.is_temporal(type_) and not kinds.is_duration(type_):
        return pa.string()
    if kinds.is_decimal(type_):
        return pa.string()
    if kinds.is_duration(type_):
        return pa.int64()
    return pa.float32() if kinds.is_float16(type_) else type_


def _plain_array(array: pa.Array) -> pa.Array:
    plain = _plain(array.type)
    return array if plain == array.type else array.cast(plain)


def _plain(type_: pa.DataType) -> pa.DataType:
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    return type_.value_type if kinds.is_dictionary(type_) else type_


def _returns(type_: pa.DataType) -> bool:
    """Whether a column of this type can be made of its cells. Lists and structs can if JSON has what is in them."""
    if kinds.is_list(type_) or kinds.is_large_list(type_) or kinds.is_fixed_size_list(type_):
        return _in_json(type_.value_type)
    if kinds.is_struct(type_):
        return all(_in_json(field.type) for field in type_)
    return not kinds.is_nested(type_) and not kinds.is_interval(type_)


def _in_json(type_: pa.DataType) -> bool:
    if kinds.is_nested(type_):
        return not kinds.is_map(type_) and not kinds.is_union(type_) and _returns(type_)
    half = kinds.is_float16(type_)
    return (
        is_text(type_) or kinds.is_integer(type_) or kinds.is_boolean(type_) or (kinds.is_floating(type_) and not half)
    )


def is_text(type_: pa.DataType) -> bool:
    return bool(kinds.is_string(type_) or kinds.is_large_string(type_) or kinds.is_string_view(type_))
