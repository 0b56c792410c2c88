"""Finds how to read the bytes of a CSV as text: encoding, delimiter, and Excel's line `sep=;`. Knows no rows.

The encoding comes from a byte order mark or from the user, else it is UTF-8; it is never guessed. The delimiter is
found in the header. Files of other formats are refused.
"""

import codecs
import csv
import io
import re
import shlex
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from producer.sources.cells import quoted
from producer.sources.columns import may_hold_images
from producer.sources.hints import new_file
from producer.sources.source import ReadOptions
from workers.errors import UsageError

if TYPE_CHECKING:
    from _csv import Reader

HEAD_BYTES = 1 << 20
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars (|)"}  # tried in this order
UTF8 = "utf-8"
# Byte order marks and the codecs of the text after them. UTF-32-LE comes before UTF-16-LE, whose mark it begins with.
_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
OTHER_FORMATS = (  # first bytes, name of the format, and what to do
    (b"\x1f\x8b", "gzip", "unpack it first: gunzip < {file} > {unpacked}"),
    (b"BZh", "bzip2", "unpack it first: bunzip2 < {file} > {unpacked}"),
    (b"\xfd7zXZ\0", "xz", "unpack it first: unxz < {file} > {unpacked}"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it first: unzstd < {file} > {unpacked}"),
    (b"PK\3\4", "zip", "unpack it first: unzip {file}"),
    (b"PAR1", "Parquet", "write it as CSV first, for example with pandas: to_csv(..., index=False)"),
    (b"\xd0\xcf\x11\xe0", "an Office document such as .xls", "save its sheet as CSV UTF-8 and give that file"),
    (b"\xff\xd8\xff", "a JPEG image", "give a CSV of image paths, or the image's folder"),
    (b"\x89PNG", "a PNG image", "give a CSV of image paths, or the image's folder"),
)
_SEP_LINE = re.compile(r'"?sep=([^\r\n])"?(?:\r\n|\r|\n)', re.IGNORECASE)
_SPELLED = {"tab": "\t", r"\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "space": " "}


@dataclass(frozen=True)
class CsvText:
    """How to read one CSV."""

    mark: bytes  # its byte order mark, or empty
    encoding: str  # codec of the text after the mark
    delimiter: str
    preface: bool  # the first line is Excel's `sep=;`, which is no row
    given: ReadOptions

    @property
    def told(self) -> str:
        """How the file is read, such as `as UTF-16 with tabs between its cells`; empty if that is the usual way, or
        the way that the user asked for."""
        parts = []
        if self.given.encoding is None and self.encoding != UTF8:
            parts.append(f"as {self.encoding.upper()}")
        if self.given.delimiter is None and self.delimiter != ",":
            parts.append(f"with {DELIMITERS.get(self.delimiter, quoted(self.delimiter))} between its cells")
        return " ".join(parts)

    @property
    def stamp(self) -> str:
        """Text added to the hash of the bytes, since the same bytes read in another way give other rows."""
        usual = self.encoding == UTF8 and self.delimiter == ","
        return "" if usual else f" {self.encoding} {quoted(self.delimiter)}"

    def open(self, file: io.FileIO, *, strict: bool = False) -> io.TextIOWrapper:
        """Open the text after the mark, with its line ends unchanged.

        Bytes that are no text become surrogates; if `strict`, or if the codec has none, they raise
        `UnicodeDecodeError`.
        """
        buffered = io.BufferedReader(file)
        if self.mark:
            buffered.read(len(self.mark))
        return io.TextIOWrapper(buffered, self.encoding, "strict" if strict else "surrogateescape", newline="")

    def rows(self, text: io.TextIOWrapper) -> "Reader":
        """All rows of this text, also blank ones. Raises the errors of `csv.reader` and of the codec."""
        reader = csv.reader(text, delimiter=self.delimiter, strict=True)
        if self.preface:
            next(reader)
        return reader

    def ends_row(self, unit: bytes) -> bool:
        """Whether these bytes, one or more code units of `unit_bytes` bytes each, contain a line end."""
        text = unit.decode(self.encoding, "replace")
        return "\r" in text or "\n" in text

    @property
    def unit_bytes(self) -> int:
        """Bytes of one code unit of the encoding."""
        return {"utf-16": 2, "utf-32": 4}.get(self.encoding[:6], 1)


def find_text(file: io.FileIO, shown: str, given: ReadOptions) -> CsvText:
    """Find how to read a file from its first bytes. Raises `UsageError`, with what to do, if it is no CSV text."""
    head = file.read(HEAD_BYTES)
    encoding, delimiter = _codec(given.encoding), _delimiter(given.delimiter)
    mark, marked = next(((mark, codec) for mark, codec in _MARKS if head.startswith(mark)), (b"", None))
    if not mark:
        _refuse_other_formats(head, shown, Path(str(file.name)))
    if marked and encoding and not marked.startswith(encoding):
        raise UsageError(f"{shown}: begins with the mark of {marked.upper()} text; leave out --encoding {encoding}")
    encoding = marked or encoding or UTF8
    if not encoding.startswith(("utf-16", "utf-32")):
        _refuse_nul(head, shown)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head[len(mark) :])
    if not re.search(r"[\r\n]", text) and len(head) == HEAD_BYTES:
        raise UsageError(f"{shown}: no line break in its first MiB; give a CSV with one image a line")
    said = _SEP_LINE.match(text)
    delimiter = delimiter or (said[1] if said else None) or _found_delimiter(text, given.image_column)
    return CsvText(mark, encoding, delimiter, said is not None, given)


def filled_rows(reader: Iterable[list[str]]) -> Iterator[list[str]]:
    """The header and the rows, without lines that are blank or have only delimiters."""
    for cells in reader:
        if cells and (cells[0].strip() or any(map(str.strip, cells))):
            yield cells


def advised_encoding(broken: bytes) -> str:
    """Advice for bytes that are not UTF-8, such as `--encoding cp1252 reads it as 'café.jpg'`."""
    for codec in ("cp1252", "latin1"):
        try:
            return f"--encoding {codec} reads it as {quoted(broken.decode(codec))}"
        except UnicodeDecodeError:
            continue
    raise AssertionError("Latin-1 reads everything")


def _codec(name: str | None) -> str | None:
    """Python's name of an encoding. Raises `UsageError` for a name that is no encoding of text."""
    if name is None:
        return None
    try:
        found = codecs.lookup(name)
        if not getattr(found, "_is_text_encoding", True) or found.incrementaldecoder is None:  # such as base64
            raise LookupError
        found.incrementaldecoder("surrogateescape").decode(b"", True)
    except (LookupError, ValueError):
        known = "such as cp1252, latin1, shift_jis, gb18030, utf-16"
        raise UsageError(
            f"--encoding {quoted(name)}: Python knows no such encoding of text; give one {known}"
        ) from None
    return UTF8 if found.name == "utf-8-sig" else found.name


def _delimiter(given: str | None) -> str | None:
    if given is None:
        return None
    delimiter = _SPELLED.get(given.lower(), given)
    if len(delimiter) != 1 or delimiter in '\r\n"\0':
        raise UsageError(f"--delimiter {quoted(given)}: give one character, such as ';', or tab")
    return delimiter


def _found_delimiter(text: str, image_column: str | None) -> str:
    """The delimiter with which the header has a column of paths, else the one that gives the most columns."""
    headers = {delimiter: names for delimiter in DELIMITERS if (names := _header(text, delimiter))}
    for delimiter, names in headers.items():
        if may_hold_images(names, image_column):
            return delimiter
    return max(headers, key=lambda delimiter: len(headers[delimiter]), default=",")


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return next(filled_rows(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)), [])
    except csv.Error:  # reported when the rows are read
        return []


def _refuse_nul(head: bytes, shown: str) -> None:
    line = re.split(rb"[\r\n]", head, maxsplit=1)[0]
    if b"\0" in line:
        order = "be" if line[:1] == b"\0" else "le"
        raise UsageError(f"{shown}: is not UTF-8 text; if it is UTF-16: --encoding utf-16-{order}")


def _refuse_other_formats(head: bytes, shown: str, path: Path) -> None:
    for magic, what, advice in OTHER_FORMATS:
        if head.startswith(magic):
            if what == "zip":
                what, advice = _zipped(path, head) or (what, advice)
            advice = advice.format(file=shlex.quote(shown), unpacked=new_file(shown, "unpacked"))
            raise UsageError(f"{shown}: is {what}, not CSV text; {advice}")


_SAVE_SHEET = "save the sheet with the paths as CSV (File, Save As, CSV UTF-8) and give that file"


def _zipped(path: Path, head: bytes) -> tuple[str, str] | None:
    """Which office document a ZIP file is, and what to do with it; None if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            mimetype = archive.read("mimetype")[:100] if "mimetype" in names else b""
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError):  # truncated or encrypted
        names, mimetype = (["xl/"] if b"[Content_Types].xml" in head and b"xl/" in head else []), b""
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook", _SAVE_SHEET
    if b"opendocument" in mimetype:
        return "an OpenDocument file", _SAVE_SHEET
    return ("an Office document", _SAVE_SHEET) if "[Content_Types].xml" in names else None
