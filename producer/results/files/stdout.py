"""Writes an export to standard output instead of a file, whole or not at all. Knows no format."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from producer.results.files.marks import made_by_export
from producer.results.files.targets import Recognise, Targets


class StandardOutput(Targets):
    """Prints the one file that an export writes."""

    single = True

    @contextmanager
    def replacing(self, path: Path, recognise: Recognise = made_by_export) -> Iterator[Path]:
        """Yield the path of a temporary file, and print that file if the block raises nothing."""
        with tempfile.TemporaryDirectory(prefix="sam3-") as folder:
            temporary = Path(folder, "export")
            yield temporary
            with temporary.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
