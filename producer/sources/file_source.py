"""What sources that are one file have in common: where it is, and where its paths start. Knows no format."""

from pathlib import Path

from producer.sources.file import SourceFile
from producer.sources.source import DEFAULT_OPTIONS, ReadOptions, RowSource, require_prompts
from workers.places import location

FIRST_ROWS, RANDOM_ROWS = 100, 100  # rows in the sample of a survey


class FileSource(RowSource):
    """Rows of a file, gzipped or not. Relative paths start at `options.root`, else at the file's folder."""

    def __init__(self, path: Path, options: ReadOptions = DEFAULT_OPTIONS) -> None:
        require_prompts(options)
        self.file = SourceFile(path, self.kind, options.copy_of)
        self.path = self.file.path
        self.place = options.copy_of or str(self.path)
        self.confined = options.root is not None
        self.root = location.absolute(str(options.root or options.base or self.path.parent))
        self.follow_symlinks = options.follow_symlinks
