"""A folder of images as rows, in the order of their paths. Looks at names and opens nothing."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from db.intake import NewRow
from producer.cells import SHORT, BadRow, as_name, check_path, one_line, unreadable
from producer.csv_header import IMAGE_SUFFIXES, Columns
from producer.manifest import Survey
from workers.errors import UsageError


class FolderManifest:
    """The images in a folder and below it, as rows in the order of their paths. Looks at names and opens nothing.

    Hidden files and folders are skipped, and so is `exclude`, the output folder. Memory grows with the largest folder.
    """

    columns = Columns(("path",), "path", None)
    confined = False

    def __init__(self, path: Path, *, exclude: Path | None = None, follow_symlinks: bool = False) -> None:
        self._shown = one_line(str(path))
        self.source = self.root = Path(os.path.abspath(path))
        self.follow_symlinks = follow_symlinks
        self._exclude = os.path.relpath(os.path.realpath(exclude), os.path.realpath(path)) if exclude else None
        if self._exclude == ".":
            raise UsageError(f"{self._shown}: is the output folder too; choose another with -o")
        if all(name.endswith("/") for name in self._walk()):
            suffixes = " ".join(IMAGE_SUFFIXES)
            raise UsageError(f"{self._shown}: no images in it or below it; give a folder with {suffixes} files")

    def is_still(self, known_size: int, known_mtime_ns: int) -> bool:
        """Never certain: a file may have come anywhere below without a trace at the top."""
        return False

    def survey(self, known_size: int = 0, known_sha256: str | None = None) -> Survey:
        """Count the images. A folder never `continues`: new names may come anywhere in its order."""
        count, newest = 0, os.stat(self.root).st_mtime_ns
        for name in self._walk():
            if name.endswith("/"):
                newest = max(newest, self._folder_stat(name).st_mtime_ns)
            else:
                count += 1
        return Survey(size=count, mtime_ns=newest, sha256=None, rows=count, continues=False)

    def rows(self, skip: int = 0) -> Iterator[NewRow]:
        """The images after the first `skip`; a name that cannot be recorded is a rejected row."""
        images = (name for name in self._walk() if not name.endswith("/"))
        return map(self._row, islice(images, skip, None))

    def _row(self, path: str) -> NewRow:
        if len(path) > SHORT or not path.isprintable():
            try:
                check_path(path)
            except BadRow as bad:
                name = as_name(path)
                return NewRow(name, rejected=(bad.error_class.value, f"{self._shown}/{name}: {bad.fault}"))
        return NewRow(path)

    def _walk(self) -> Iterator[str]:
        """Paths below the root: folders, which end with a slash, each before what is in it, and images."""
        levels = [self._names("")]
        parents = [self._identity("")]
        while levels:
            for name in levels[-1]:
                yield name
                if name.endswith("/") and (identity := self._identity(name)) not in parents:  # a symlink may loop
                    levels.append(self._names(name))
                    parents.append(identity)
                    break
            else:
                levels.pop()
                parents.pop()

    def _names(self, folder: str) -> Iterator[str]:
        """Sorted paths of the folders and images directly in `folder`."""
        names = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if entry.name[0] == ".":
                        continue
                    if entry.is_dir(follow_symlinks=self.follow_symlinks):
                        if folder + entry.name != self._exclude:
                            names.append(f"{folder}{entry.name}/")
                    elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                        names.append(folder + entry.name)
        except OSError as error:
            raise self._unreadable(folder, error) from error
        names.sort()
        return iter(names)

    def _identity(self, folder: str) -> tuple[int, int]:
        found = self._folder_stat(folder)
        return found.st_dev, found.st_ino

    def _unreadable(self, folder: str, error: OSError) -> UsageError:
        return UsageError(unreadable(os.path.join(self._shown, one_line(folder)).rstrip("/"), error))

    def _folder_stat(self, folder: str) -> os.stat_result:
        try:
            return os.stat(self.root / folder)
        except OSError as error:
            raise self._unreadable(folder, error) from error
