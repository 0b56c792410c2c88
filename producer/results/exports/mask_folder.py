"""Records in a folder of masks which run they belong to, and in each mask which instances it shows.

Knows no pixels and no SQL.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from db.values import FoundInstance
from producer.layout import MASK_HEAD_BYTES, MASK_MARK, MASKS_RECORD
from producer.results.choice import Choice
from producer.results.exports.mask_style import PLAIN, MaskStyle
from producer.results.files.folder_record import FolderRecord, read_facts
from producer.results.files.targets import Targets
from workers.errors import UsageError

MANIFEST = MASKS_RECORD
DIGEST_MARK = b"sam3-mask\0"  # start of the text chunk with the digest of a mask's instances
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class MaskFolder(FolderRecord):
    """How the masks of a folder were made. It is written as a file in that folder."""

    mark = "sam3_masks"
    run: str
    uid: str
    source: str
    choice: Choice
    select: str
    folded: bool
    complete: bool = False  # whether the last export was finished
    style: MaskStyle = PLAIN
    origin: dict[str, Any] = field(default_factory=dict)  # what the results were made with, see `provenance`

    def as_json(self) -> str:
        facts = {**asdict(self), "style": self.style.given}
        del facts["choice"]
        return self.text(facts | self.choice.record())


def read_mask_folder(folder: Path, files: Targets | None = None) -> MaskFolder | None:
    """Read how the masks of a folder were made; None if the folder has no such file, or one that we did not write.

    `files` reads the folder if it is not on this machine.
    """
    facts = read_facts((files or Targets(folder)).read(folder / MANIFEST))
    try:
        style, choice = MaskStyle(**facts.get("style", {})), Choice.recorded(facts)
        return MaskFolder(**MaskFolder.known(facts) | {"style": style, "choice": choice})
    except (TypeError, UsageError):
        return None


def chosen(found: Sequence[FoundInstance], select: str) -> Sequence[FoundInstance]:
    """The instances of a result that its mask shows together. `found` is in the order of falling scores."""
    if select == "union" or not found:
        return found
    return [found[0]] if select == "best" else [max(found, key=lambda instance: instance.area)]


def digest(
    height: int | None,
    width: int | None,
    instances: Sequence[FoundInstance],
    edits: Mapping[str, object] | None = None,
    labels: Sequence[int] = (),
) -> str:
    """A checksum of all that the pixels of a mask depend on: two masks with the same digest have equal pixels.

    `edits` are those of a `MaskStyle`, and `labels` the numbers of the instances in a label map.
    """
    told = hashlib.sha256(f"{height}x{width}".encode())
    for instance in instances:
        told.update(struct.pack(">I", len(instance.rle)) + instance.rle)
    if edits or labels:
        told.update(json.dumps([dict(edits or {}), *labels]).encode())
    return told.hexdigest()[:32]


def texts(run: str, digest: str) -> list[bytes]:
    """The text chunks of a mask: the run that it was exported for, and the digest of its instances."""
    return [_run_text(run), DIGEST_MARK + digest.encode()]


def holds(mask: Path, digest: str) -> bool:
    """Whether the file is a complete mask of ours with this digest. Reads its first and last bytes only."""
    start, end = _ends(mask)
    # The end is compared because a power cut can leave a file with the right size and without its last bytes.
    return end == PNG_END and _chunk(DIGEST_MARK + digest.encode()) in start


def is_of_run(mask: Path, run: str) -> bool:
    """Whether the file is a mask that was exported for this run."""
    start, _ = _ends(mask)
    return _chunk(_run_text(run)) in start


def _ends(mask: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file; empty if it cannot be read."""
    try:
        file = os.open(mask, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # without O_NONBLOCK a pipe waits for ever
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
