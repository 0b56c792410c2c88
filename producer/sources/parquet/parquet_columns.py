"""Which columns of Parquet files are kept, and whether all files of a source have the same. Reads no rows.

Needs pyarrow, the extra `parquet`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from producer.sources.parquet.parquet_part import ParquetPart
from producer.sources.parts import require_same_columns, with_folder_columns
from producer.sources.rows.cells import escaped, quoted
from producer.sources.rows.columns import Columns, choose_columns
from producer.sources.source import ReadOptions
from workers.errors import UsageError

_NULL = "null"  # the type of a column of which a writer has seen no value


class PartsColumns:
    """The columns of the files that were added: those of the first, with the types of all."""

    def __init__(self) -> None:
        self.left_out: list[str] = []  # names of columns of bytes
        self._first: tuple[ParquetPart, Any] | None = None  # with its schema
        self._types: dict[str, str] = {}
        self._of_folders: dict[str, None] = {}  # names that folders of the files give, in order

    def add(self, part: ParquetPart, schema: Any) -> None:
        """Note the columns of a file. Raises `UsageError` if they are not those of the files before it.

        Only a column without any value in one file may have another type there.
        """
        from producer.sources.parquet.arrow_types import is_kept, type_text

        types = {field.name: type_text(field.type) for field in schema if is_kept(field.type)}
        self._of_folders |= dict.fromkeys(part.of_folders)
        if self._first is None:
            self._first, self._types = (part, schema), types
            self.left_out = [quoted(name) for name in schema.names if name not in types]
            return
        first, its = self._first
        require_same_columns(first.file, self._types, part.file, types)
        for name, type_ in types.items():
            known = self._types[name]
            if _NULL not in (known, type_) and known != type_:
                held = f"column {quoted(name)} holds {_shown(schema, name)}, in {first.file.name} {_shown(its, name)}"
                raise UsageError(f"{part.file.shown}: {held}; write all files of a source with the same types")
            self._types[name] = type_ if known == _NULL else known

    @property
    def held(self) -> tuple[str, ...]:
        """The names of the columns that are read."""
        return tuple(self._types)

    def choose(self, shown: str, options: ReadOptions) -> Columns:
        """The columns of the rows: those that are read, and those of folders. Raises `UsageError` if none holds paths.

        `shown` names the source in errors.
        """
        from producer.sources.parquet.arrow_types import is_text, type_of

        _, schema = self._first or (None, None)
        names: Sequence[str] = () if schema is None else schema.names
        columns = choose_columns(shown, tuple(names), options.image_column, options.prompt_column, options.box_column)
        types = self._types
        if columns.image not in types or not is_text(type_of(types[columns.image])):
            paths = f"column {quoted(columns.image)} holds {_shown(schema, columns.image)}, no paths"
            raise UsageError(f"{shown}: {paths}; name the column of paths with --image-column, or write them as text")
        return with_folder_columns(shown, replace(columns, names=self.held, types=types), self._of_folders)


def _shown(schema: Any, name: str) -> str:
    return escaped(str(schema.field(name).type))[:100]
