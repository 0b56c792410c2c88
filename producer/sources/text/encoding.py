"""Finds how to read the bytes of a file as text: its encoding. Knows no rows, and no format of text.

The encoding comes from a byte order mark or from the user, else it is UTF-8; it is never guessed. Files whose first
bytes are those of another format are refused.
"""

import codecs
import io
import re
import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path

from producer.layout import STDIN_SUFFIX
from producer.sources.file import SourceFile
from producer.sources.hints import new_file
from producer.sources.rows.cells import quoted
from producer.sources.source import ReadOptions
from workers.errors import UsageError

HEAD_BYTES = 1 << 20
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


COPY_FIRST = "copy it to this machine and give that copy, to be told how to convert it"  # no command reads a URL


@dataclass(frozen=True)
class FileText:
    """How to read the text of one file."""

    mark: bytes  # its byte order mark, or empty
    encoding: str  # codec of the text after the mark
    given: ReadOptions

    @property
    def told(self) -> str:
        """How the file is read, such as `as UTF-16`; empty if that is the usual way, or the way that was asked for."""
        return "" if self.given.encoding or self.encoding == UTF8 else f"as {self.encoding.upper()}"

    @property
    def stamp(self) -> str:
        """Text added to the hash of the bytes, since the same bytes read in another way give other rows."""
        return "" if self.encoding == UTF8 else f" {self.encoding}"

    def open(self, file: io.RawIOBase, *, strict: bool = False) -> io.TextIOWrapper:
        """Open the text after the mark, with its line ends unchanged.

        Bytes that are no text become surrogates; if `strict`, or if the codec has none, they raise
        `UnicodeDecodeError`.
        """
        buffered = io.BufferedReader(file)
        if self.mark:
            buffered.read(len(self.mark))
        return io.TextIOWrapper(buffered, self.encoding, "strict" if strict else "surrogateescape", newline="")

    def ends_row(self, unit: bytes) -> bool:
        """Whether these bytes, one or more code units of `unit_bytes` bytes each, contain a line end."""
        text = unit.decode(self.encoding, "replace")
        return "\r" in text or "\n" in text

    @property
    def unit_bytes(self) -> int:
        """Bytes of one code unit of the encoding."""
        return {"utf-16": 2, "utf-32": 4}.get(self.encoding[:6], 1)


def find_encoding(file: SourceFile, given: ReadOptions, kind: str) -> tuple[FileText, str]:
    """How to read the file, and its first MiB as text, with \ufffd for what is none.

    `kind` says in errors what was expected, such as CSV. Raises `UsageError`, with what to do, if it is no text.
    """
    with file.faults(), io.BufferedReader(file.open()) as opened:
        head = opened.read(HEAD_BYTES)
    encoding = _codec(given.encoding)
    mark, marked = next(((mark, codec) for mark, codec in _MARKS if head.startswith(mark)), (b"", None))
    if not mark:
        _refuse_other_formats(head, file, kind)
    if marked and encoding and not marked.startswith(encoding):
        raise UsageError(
            f"{file.shown}: begins with the mark of {marked.upper()} text; leave out --encoding {encoding}"
        )
    encoding = marked or encoding or UTF8
    if not encoding.startswith(("utf-16", "utf-32")):
        _refuse_nul(head, file.shown)
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head[len(mark) :])
    if not re.search(r"[\r\n]", text) and len(head) == HEAD_BYTES:
        raise UsageError(f"{file.shown}: no line break in its first MiB; give a {kind} with one image a line")
    return FileText(mark, encoding, given), text


def advised(file: SourceFile, advice: str) -> str:
    """Advice with a command that reads the file; other advice for a copy of an object, or of what was piped in."""
    if file.path.name.endswith(STDIN_SUFFIX):
        return "convert it before it is piped in"
    return COPY_FIRST if file.is_copy else advice


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


def _refuse_nul(head: bytes, shown: str) -> None:
    line = re.split(rb"[\r\n]", head, maxsplit=1)[0]
    if b"\0" in line:
        order = "be" if line[:1] == b"\0" else "le"
        raise UsageError(f"{shown}: is not UTF-8 text; if it is UTF-16: --encoding utf-16-{order}")


def _refuse_other_formats(head: bytes, file: SourceFile, kind: str) -> None:
    for magic, what, advice in OTHER_FORMATS:
        if head.startswith(magic):
            if what == "zip":
                what, advice = _zipped(file.path, head) or (what, advice)
            suffix = Path(re.sub(r"\.(gz|bz2|xz|zst)$", "", file.name, flags=re.IGNORECASE)).suffix or ".csv"
            advice = advice.format(file=shlex.quote(file.shown), unpacked=new_file(file.shown, "unpacked", suffix))
            raise UsageError(f"{file.shown}: is {what}, not {kind} text; {advised(file, advice)}")


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
