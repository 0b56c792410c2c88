"""What says which run, and which instances, the masks of a folder were made from. Knows no pixels and no SQL."""

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from db.values import FoundInstance
from db.views.status import RunView
from producer.layout import MASK_HEAD_BYTES, MASK_MARK

MANIFEST = ".sam3-masks.json"
DIGEST_MARK = b"sam3-mask\0"  # how the text chunk begins that says what a mask was made from
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class MaskFolder:
    """How the masks of a folder were made; stands beside them as a file."""

    run: str
    uid: str
    source: str  # what the run read its rows from
    threshold: float
    select: str
    folded: bool  # whether names that only differ in case have checksums, see `names.mask_path`
    complete: bool = False  # whether the last export came to its end

    def belongs_to(self, view: RunView) -> bool:
        """Whether it is the run's own, or that of a deleted run of the same name and source."""
        return self.uid == view.uid or (self.run, self.source) == (view.name, view.source.path)

    def as_json(self) -> str:
        return json.dumps({"schema": 1, "sam3_masks": True, **asdict(self)}, ensure_ascii=False, indent=1) + "\n"


def read_mask_folder(folder: Path) -> MaskFolder | None:
    """What the folder says of its masks; None if it does not, or not as we write it."""
    try:
        facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        return MaskFolder(**{name: facts[name] for name in MaskFolder.__dataclass_fields__})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_manifest(file: BinaryIO) -> bool:
    """Whether we wrote what the file holds, and so may write it anew."""
    try:
        facts = json.loads(file.read())
    except (ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.get("sam3_masks") is True


def chosen(found: Sequence[FoundInstance], select: str) -> Sequence[FoundInstance]:
    """Those of a result's instances (highest score first) that its mask is the union of; of none none."""
    if select == "union" or not found:
        return found
    return [found[0]] if select == "best" else [max(found, key=lambda instance: instance.area)]


def digest(height: int | None, width: int | None, instances: Sequence[FoundInstance]) -> str:
    """Stands for the pixels of a mask: those of two masks with the same digest are equal."""
    told = hashlib.sha256(f"{height}x{width}".encode())
    for instance in instances:
        told.update(struct.pack(">I", len(instance.rle)) + instance.rle)
    return told.hexdigest()[:32]


def texts(run: str, digest: str) -> list[bytes]:
    """The text chunks of a mask: the run it was exported for, and what it was made from."""
    return [_run_text(run), DIGEST_MARK + digest.encode()]


def holds(mask: Path, digest: str) -> bool:
    """Whether there is a whole mask of ours with exactly these pixels. Looks at its first and last bytes only."""
    start, end = _ends(mask)
    # A power cut can leave a file of the right size without its end.
    return end == PNG_END and _chunk(DIGEST_MARK + digest.encode()) in start


def is_of_run(mask: Path, run: str) -> bool:
    """Whether there is a mask that was exported for this run."""
    start, _ = _ends(mask)
    return _chunk(_run_text(run)) in start


def _ends(mask: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file; nothing where there is none, or none that can be read."""
    try:
        file = os.open(mask, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for ever
        try:
            size = os.fstat(file).st_size
            return os.pread(file, MASK_HEAD_BYTES, 0), os.pread(file, len(PNG_END), max(0, size - len(PNG_END)))
        finally:
            os.close(file)
    except OSError:
        return b"", b""


def _run_text(run: str) -> bytes:
    return MASK_MARK + quote(run).encode()


def _chunk(text: bytes) -> bytes:
    return struct.pack(">I4s", len(text), b"tEXt") + text
