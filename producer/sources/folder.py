"""Turns a folder of images, or those that match a pattern, into rows, in the order of their paths. Decodes nothing.

`producer.sources.selection` decides which files are images.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from db.intake import KnownRun, NewRow
from producer.sources.hints import shell_path
from producer.sources.looking import same_files
from producer.sources.pattern import is_pattern
from producer.sources.rows.cells import escaped
from producer.sources.rows.columns import PATHS_ALONE
from producer.sources.rows.rules import row_of_file
from producer.sources.selection import PARQUET, ROWS_SUFFIXES, LeftOut, Tally, told_left_out
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RecordedRow, RowSource, Survey
from producer.sources.walk import mixture, walk_below
from workers.errors import UsageError
from workers.inference.reading.formats import FORMATS


class FolderSource(RowSource):
    """The images in a folder and below it, as rows in the order of their paths.

    Other files are left out, also those in the output folder `options.exclude`; `left_out` counts them by reason after
    each survey. Memory grows with the number of entries of the largest single folder.
    """

    kind = "folder"
    empty = "no images in it or below it"
    files_seen = True
    columns = PATHS_ALONE
    confined = False

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        self._given, self._shown = path, escaped(str(path))
        self.place = os.path.abspath(path)
        self.follow_symlinks = options.follow_symlinks
        refuse_flags_of_files(self._shown, self.kind, options)
        self._walk = walk_below(path, options)
        self.root = str(self._walk.folder)
        tally = Tally()
        if all(name.endswith("/") for name in self._walk.paths(tally)):
            there = f"; left out: {told_left_out(tally.left_out)}" if tally.left_out else ""
            advice = self._advice_if_empty() + advice_on_lists(str(path), tally.left_out)
            raise UsageError(f"{self._shown}: {self.empty}{there}; {advice}")

    def _advice_if_empty(self) -> str:
        return f"give a folder with {', '.join(FORMATS[:-1])} or {FORMATS[-1]} files"

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        return path.is_dir()

    def is_still(self, known_size: int, known_mtime_ns: int, known_sha256: str) -> bool:
        """Always false: a new file below a subfolder does not change the size or time of the folder itself."""
        return False

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Count the images. Raises `UsageError` if there are Parquet files, too.

        `continues` is always false: a new file may come anywhere in the order of the paths.
        """
        count, newest, tally, first = 0, os.stat(self.root).st_mtime_ns, Tally(), ""
        for name in self._walk.paths(tally):
            if name.endswith("/"):
                with suppress(OSError):  # the walk opens this folder next and reports the error
                    newest = max(newest, os.stat(os.path.join(self.root, name)).st_mtime_ns)
            else:
                count += 1
                first = first or name
        self.left_out = tally.left_out
        for one in self.left_out:
            if one.reason == PARQUET:
                raise mixture(self._given, self._walk.folder, first, one.example)
        return Survey(size=count, mtime_ns=newest, sha256=None, rows=count, continues=False)

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The images after the first `skip`; a name that cannot be recorded becomes a rejected row."""
        images = (name for name in self._walk.paths() if not name.endswith("/"))
        return (row_of_file(name, self._shown) for name in islice(images, skip, None))

    def holds(self, known: KnownRun, recorded: Sequence[RecordedRow]) -> bool:
        """Whether the recorded rows are files of this folder, by path and size."""
        return same_files(recorded, self.root)


class PatternSource(FolderSource):
    """The images whose paths match a pattern, such as `photos/**/*.jpg`, as rows in the order of their paths.

    A pattern matches files, not folders. Of the files that match, `left_out` counts those that are no images.
    """

    kind = "pattern"
    empty = "matches no images"

    @classmethod
    def takes(cls, path: Path, options: ReadOptions) -> bool:
        return is_pattern(path)

    def _advice_if_empty(self) -> str:
        return "* stands for a part of one name, ** for any number of folders"


def advice_on_lists(folder: str, left_out: Sequence[LeftOut]) -> str:
    """The pattern for the rows of what was left out in a folder without images; empty if that is no list of any."""
    for one in left_out:
        suffix = next((suffix for suffix in ROWS_SUFFIXES if one.example.lower().endswith(suffix)), "")
        if suffix and not is_pattern(folder):
            pattern = shell_path(f"{folder.rstrip('/')}/**/*{one.example[-len(suffix) :]}")
            return f"; if such files name images, give {pattern}"
    return ""


def refuse_flags_of_files(shown: str, kind: str, options: ReadOptions) -> None:
    """Raise `UsageError` for flags that are for files with rows, and without a prompt."""
    columns = (options.prompt_column, options.box_column, options.image_column)
    if any((*columns, options.root, options.encoding, options.delimiter)):
        of_csv = "--prompt-column, --box-column, --image-column and --image-root are for CSV files, as are"
        raise UsageError(f"{shown} is a {kind}: {of_csv} --encoding and --delimiter")
    if options.needs_prompt:
        raise UsageError("nothing to look for: give --prompt TEXT, or --everything")
