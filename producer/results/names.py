"""Names the file of each mask in a folder of masks, so that no two images share one. Knows no content of files."""

import hashlib
import os
import re
import tempfile
import unicodedata
from pathlib import Path, PurePosixPath

from workers.inference import location

LONGEST_NAME = 255  # bytes of a file name, on every common file system
SUFFIX = ".png"

ABSOLUTE, UP = "_absolute", "_up"  # folders for the masks of images that are not below the root
_RESERVED = re.compile(f"_+({ABSOLUTE[1:]}|{UP[1:]})")
_LIKE_A_MASK = re.compile(rf"{re.escape(SUFFIX)}_*\Z")  # end of a folder's name that a mask may have as well
_LIKE_CHECKED = re.compile(r"~[0-9a-f]{16}\Z")  # end of a name that looks like one of our checksums


def mask_path(slug: str, path: str, root: str = "/", *, folded: bool = False) -> PurePosixPath:
    """The path of an image's mask in the folder of masks, for instance `person/faces/a.jpg.png`.

    It mirrors the image's path below the run's `root`. An absolute path outside the root goes to `_absolute/`, and a
    path that leaves the root goes to one `_up/` for each `..`, so that no mask leaves the folder of masks. Two
    different normalised paths never share a mask, and no mask has the name of a folder that another mask needs:

    - a first folder that is really called `_absolute` or `_up` gets one more `_` in front;
    - a folder whose name ends like that of a mask (`a.png`, `a.png_`) gets one more `_` at its end;
    - a name that would be too long ends with a checksum instead (`~` and 16 hex digits), and so does a real name that
      already ends like a checksum.

    `folded` is for file systems that take some different names for equal, see `folds_names`: there every name that may
    equal another one gets a checksum. Paths are compared as text only: links are not followed.
    """
    above, folders, name = _place(path, root)
    if folders and _RESERVED.fullmatch(folders[0]):
        folders[0] = f"_{folders[0]}"
    within = [*above, *(_folder_name(folder, folded) for folder in folders)]
    return PurePosixPath(slug, *within, _file_name(name, folded))


def _place(path: str, root: str) -> tuple[list[str], list[str], str]:
    """Split a path into the reserved folders, the real folders, and the name of the file."""
    plain, base = location.normal(path), location.normal(f"/{root}").rstrip("/")
    above = []
    if plain.startswith("/"):
        if plain == base or plain.startswith(f"{base}/"):
            plain = plain[len(base) + 1 :] or "."
        else:
            above = [ABSOLUTE]
    *folders, name = plain.lstrip("/").split("/")
    while folders and folders[0] == "..":
        above.append(UP)
        del folders[0]
    return above, folders, name


def _folder_name(name: str, folded: bool) -> str:
    free = f"{name}_" if _LIKE_A_MASK.search(name) else name
    return _checked(name) if _needs_checksum(name, len(_bytes(free)), folded) else free


def _file_name(name: str, folded: bool) -> str:
    """`a.jpg` -> `a.jpg.png`."""
    length = len(_bytes(name)) + len(SUFFIX)
    return (_checked(name) if _needs_checksum(name, length, folded) else name) + SUFFIX


def _needs_checksum(name: str, length: int, folded: bool) -> bool:
    if length > LONGEST_NAME or _LIKE_CHECKED.search(name):
        return True
    return folded and _may_have_twins(name)


def _may_have_twins(name: str) -> bool:
    """Whether some file system that folds names may take another name for equal to `name`."""
    # Some file systems drop dots and blanks at the end of a name. `LONGNA~1` is FAT's short form of a longer name.
    return not name.isascii() or name != name.lower() or "~" in name or name.endswith((".", " "))


def _checked(name: str) -> str:
    encoded = _bytes(name)
    return f"{encoded[:200].decode(errors='ignore')}~{hashlib.sha256(encoded).hexdigest()[:16]}"


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def folds_names(folder: Path) -> bool:
    """Whether the file system of `folder` takes names for equal that differ only in case or Unicode normalisation."""
    with tempfile.NamedTemporaryFile(prefix=".sam3-Probe-\u00e9-", dir=folder) as probe:
        name = os.path.basename(probe.name)
        return any(os.path.lexists(folder / other) for other in (name.swapcase(), unicodedata.normalize("NFD", name)))
