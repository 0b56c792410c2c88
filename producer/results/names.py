"""Where the mask of an image stands in a folder of masks: never two images in one place. Knows no files' contents."""

import hashlib
import os
import re
import tempfile
import unicodedata
from pathlib import Path, PurePosixPath

from workers.inference import location

LONGEST_NAME = 255  # bytes of a file name, on every common file system
SUFFIX = ".png"

ABSOLUTE, UP = "_absolute", "_up"  # first folders of images that are not below the root
_RESERVED = re.compile(f"_+({ABSOLUTE[1:]}|{UP[1:]})")
_LIKE_A_MASK = re.compile(rf"{re.escape(SUFFIX)}_*\Z")  # how the name of a folder ends that a mask could have
_LIKE_CHECKED = re.compile(r"~[0-9a-f]{16}\Z")


def mask_path(slug: str, path: str, root: str = "/", *, folded: bool = False) -> PurePosixPath:
    """Where the mask of an image stands in the folder of masks, for instance `person/faces/a.jpg.png`.

    Mirrors the input: `path` below the run's `root`. An absolute path outside the root stands below `_absolute/`, and
    one that leaves the root stands below an `_up/` for each `..`, so that no mask can leave its folder. Two different
    normalised paths never share a mask, nor does one need a folder where another has its mask:

    - a first folder that is really called `_absolute` or `_up` gets one more `_` in front;
    - a folder whose name ends like a mask's (`a.png`, `a.png_`) gets one more `_` behind;
    - the end of a name that would be too long is a checksum (`~` and 16 hex digits), and so it is for a real name
      that ends like this.

    `folded` is for file systems that take some names for equal, see `folds_names`: there a name that may have such
    twins gets a checksum too. Paths are compared as text only: links are not followed.
    """
    above, folders, name = _place(path, root)
    if folders and _RESERVED.fullmatch(folders[0]):
        folders[0] = f"_{folders[0]}"
    within = [*above, *(_folder_name(folder, folded) for folder in folders)]
    return PurePosixPath(slug, *within, _file_name(name, folded))


def _place(path: str, root: str) -> tuple[list[str], list[str], str]:
    """The reserved folders, the real folders, and the name of the file."""
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
    """Whether a file system that folds names may take another one for `name`, in whatever way it does that."""
    # Some of them leave out dots and blanks at the end; `LONGNA~1` is how FAT calls longer names in short.
    return not name.isascii() or name != name.lower() or "~" in name or name.endswith((".", " "))


def _checked(name: str) -> str:
    encoded = _bytes(name)
    return f"{encoded[:200].decode(errors='ignore')}~{hashlib.sha256(encoded).hexdigest()[:16]}"


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def folds_names(folder: Path) -> bool:
    """Whether the file system below `folder` takes names for equal that differ in case or in Unicode's form."""
    with tempfile.NamedTemporaryFile(prefix=".sam3-Probe-\u00e9-", dir=folder) as probe:
        name = os.path.basename(probe.name)
        return any(os.path.lexists(folder / other) for other in (name.swapcase(), unicodedata.normalize("NFD", name)))
