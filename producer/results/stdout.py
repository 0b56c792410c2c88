"""Standard output where a file would be written: whole or not at all, as files are. Knows no format."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from producer.results.marks import made_by_export
from producer.results.targets import Recognise, Targets


class StandardOutput(Targets):
    """Takes the one file that an export writes."""

    @contextmanager
    def replacing(self, path: Path, recognise: Recognise = made_by_export) -> Iterator[Path]:
        """Yield a temporary file's name; what the block wrote there is printed if it ends well."""
        with tempfile.TemporaryDirectory(prefix="sam3-") as folder:
            temporary = Path(folder, "export")
            yield temporary
            with temporary.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
