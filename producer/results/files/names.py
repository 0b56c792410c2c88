"""Names the files of exports that have one for each image, so that no two images share one. Opens no file of them."""

import hashlib
import itertools
import os
import re
import string
import tempfile
import unicodedata
from array import array
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

from workers.places import location

LONGEST_NAME = 255  # bytes of a file name, on every common file system
DEFAULT_NAME, DEFAULT_EACH = "{name}.png", "{name}_{n}.png"  # templates: of a mask, and of one of several
SAME_NAME = "{name}"  # template of a mask that is called exactly like its image, and is a PNG all the same
LONGEST_TEMPLATE = 30  # bytes, so that a name with a checksum and a template around it is never too long

ABSOLUTE, UP = "_absolute", "_up"  # folders for the masks of images that are not below the root
_RESERVED = re.compile(f"_+({ABSOLUTE[1:]}|{UP[1:]})")
_LIKE_CHECKED = re.compile(r"~[0-9a-f]{16}\Z")  # end of a name that looks like one of our checksums


def mask_path(
    slug: str,
    path: str,
    root: str = "/",
    *,
    folded: bool = False,
    template: str = DEFAULT_NAME,
    twin: str = "",
) -> PurePosixPath:
    """The path of an image's mask in the folder of masks, for instance `person/faces/a.jpg.png`.

    It mirrors the image's path below the run's `root`. An absolute path outside the root goes to `_absolute/`, and a
    path that leaves the root goes to one `_up/` for each `..`, so that no mask leaves the folder of masks. Two
    different normalised paths never share a mask, unless a `template` drops their suffixes, and no mask has the name
    of a folder that another mask needs:

    - a first folder that is really called `_absolute` or `_up` gets one more `_` in front;
    - a folder whose name ends like that of a mask (`a.png`, `a.png_`) gets one more `_` at its end;
    - a name that would be too long ends with a checksum instead (`~` and 16 hex digits), and so does a real name that
      already ends like a checksum.

    `twin` tells two rows of one image apart: with it the name ends with a checksum of the name and it.

    `template` has `{name}` or `{stem}` of the image, and a suffix at its end, or is `SAME_NAME`: then folders keep
    their names, as those of images do not clash either. `folded` is for file systems that take some different names for
    equal, see `folds_names`: there every name that may equal another one gets a checksum. Paths are compared as text
    only: links are not followed.
    """
    above, folders, name = _place(path, root)
    if folders and _RESERVED.fullmatch(folders[0]):
        folders[0] = f"_{folders[0]}"
    taken = None if template == SAME_NAME else _ends_like(PurePosixPath(template).suffix)
    within = [*above, *(_folder_name(folder, taken, folded) for folder in folders)]
    return PurePosixPath(slug, *within, _file_name(name, twin, template, folded))


def template_fault(template: str, *, each: bool) -> str | None:
    """What is wrong with a template of a mask's name, in words; None if nothing is.

    Different numbers must never give one name: so `{n}` stands apart from the name of the image, which may end with
    digits.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return f"{error}; write it like {DEFAULT_NAME}"
    fields = [name for _, name, _, _ in parts if name is not None]
    if any(spec or conversion for _, _, spec, conversion in parts) or set(fields) - {"name", "stem", "n"}:
        return "it may have {stem}, {name} and, with --each, {n} and no other braces"
    if fields.count("stem") + fields.count("name") != 1:
        return "it needs {stem} or {name}, once, such as {stem}.png"
    if fields.count("n") != int(each):
        return (
            "it needs {n} once, the number of the instance" if each else "{n} is the number of an instance: add --each"
        )
    if each and not re.search(r"\}[^{]*[^\d{}][^{]*\{", template):
        return "put a character that is no digit between its two braces, such as {stem}_{n}.png"
    if "/" in template or "\0" in template or not (template.endswith(".png") or template == SAME_NAME):
        return "it names a file, so it has no / and ends with .png, or is {name} alone"
    if len(_bytes(template)) > LONGEST_TEMPLATE:
        return f"it may have {LONGEST_TEMPLATE} characters"
    return None


def sharing(
    paths: Callable[[], Iterable[str]], place: Callable[[str], str], root: str = "/", *, once: bool = False
) -> tuple[str, str] | None:
    """Two different images that would get one file, or with `once` also two rows of one image; None if there are none.

    Returns their paths as the rows have them. `place` is the file of an image, and relative paths start from `root`;
    `paths` is read twice. Needs some 50 bytes of memory for each path.
    """
    places = array("Q", sorted(_number(place(path)) for path in paths()))
    twice = {one for one, other in itertools.pairwise(places) if one == other}
    first: dict[str, str] = {}
    for path in paths() if twice else ():
        if _number(there := place(path)) in twice:
            if there in first and (once or not location.is_same(root, first[there], path)):
                return location.normal(first[there]), location.normal(path)
            first[there] = path
    return None


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(_bytes(text), digest_size=8).digest(), "big")


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


@lru_cache
def _ends_like(suffix: str) -> re.Pattern[str]:
    """Finds the end of a folder's name that a file with this suffix may have as well."""
    return re.compile(rf"{re.escape(suffix)}_*\Z")


def _folder_name(name: str, taken: re.Pattern[str] | None, folded: bool) -> str:
    free = f"{name}_" if taken and taken.search(name) else name
    return checked(name) if _needs_checksum(name, len(_bytes(free)), folded) else free


def _file_name(name: str, twin: str, template: str, folded: bool) -> str:
    """`a.jpg` -> `a.jpg.png`."""
    field = "{stem}" if "{stem}" in template else "{name}"
    plain = PurePosixPath(name).stem if field == "{stem}" else name
    length = len(_bytes(template)) - len(field) + len(_bytes(plain))
    clashes = twin or _needs_checksum(plain, length, folded)
    return template.replace(field, checked(plain, twin) if clashes else plain)


def _needs_checksum(name: str, length: int, folded: bool) -> bool:
    if length > LONGEST_NAME or _LIKE_CHECKED.search(name):
        return True
    return folded and _may_have_twins(name)


def _may_have_twins(name: str) -> bool:
    """Whether some file system that folds names may take another name for equal to `name`."""
    # Some file systems drop dots and blanks at the end of a name. `LONGNA~1` is FAT's short form of a longer name.
    return not name.isascii() or name != name.lower() or "~" in name or name.endswith((".", " "))


def checked(name: str, twin: str = "") -> str:
    """A shorter name of a file that no other name gets: its first 200 bytes, `~` and a checksum of it and `twin`."""
    encoded = _bytes(name)
    told = hashlib.sha256(encoded + (b"\0" + twin.encode() if twin else b""))  # no name of a file has a NUL
    return f"{encoded[:200].decode(errors='ignore')}~{told.hexdigest()[:16]}"


def _bytes(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def folds_names(folder: Path) -> bool:
    """Whether the file system of `folder` takes names for equal that differ only in case or Unicode normalisation."""
    with tempfile.NamedTemporaryFile(prefix=".sam3-Probe-\u00e9-", dir=folder) as probe:
        name = os.path.basename(probe.name)
        return any(os.path.lexists(folder / other) for other in (name.swapcase(), unicodedata.normalize("NFD", name)))
