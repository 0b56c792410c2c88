"""Where a source is: the one module of the sources that tells a path of this machine from the URL of a bucket.

A place is a text: a path, a pattern of paths, or a URL of an object, of a part of a bucket, or with a pattern for keys.
Reads no source. `workers.places.location` asks the disk or the server.
"""

import os
from pathlib import Path

from producer.sources import pattern
from producer.sources.rows.cells import escaped
from workers.errors import UsageError
from workers.places import location, urls
from workers.places.location import is_url as is_url


def fault(given: str) -> str | None:
    """What is wrong with a URL as a source, in words; None if it is no URL, or can be read."""
    if urls.is_web(given):
        return "a web server does not list its images; give a file with their URLs, or s3://bucket/folder"
    return urls.fault(
        f"{given.removesuffix('/')}/any" if given[-3:] != "://" else given
    )  # a whole bucket may be a source, but no image


def absolute(given: str | Path) -> str:
    """The place as it is recorded, which does not depend on the working folder."""
    return urls.normal(str(given)).rstrip("/") if is_url(str(given)) else os.path.abspath(given)


def is_pattern(place: str) -> bool:
    """Whether the place has a wildcard (`*`, `?` or `[`), and nothing has that very name."""
    if is_url(place):
        return pattern.has_wildcard(place) and not location.exists(place)
    return pattern.is_pattern(place)


def fixed(place: str) -> str:
    """What comes before the first part of a pattern that has a wildcard."""
    if is_url(place):
        bucket, key = urls.split(place)
        return "/".join((bucket, *pattern.fixed_folder(Path(key)).parts))
    return str(pattern.fixed_folder(Path(place)))


def name(place: str) -> str:
    """The last name of the place, of a pattern that of its fixed part: by it runs are named."""
    named = fixed(absolute(place)) if is_pattern(place) else absolute(place)
    return named.rpartition("/")[2]


def folder(place: str) -> str:
    """Where relative paths in a file at this place start."""
    return absolute(place).rpartition("/")[0] if is_url(place) else os.path.dirname(absolute(place))


def is_there(place: str) -> bool:
    """Whether there is a source: a file, an object, a folder, some object of it, or the fixed part of a pattern."""
    return location.exists(fixed(place) if is_pattern(place) else place)


def is_same(place: str, other: str) -> bool:
    """Whether two places, the first of which is there, are one source."""
    if is_url(place) or is_url(other):
        return absolute(place) == absolute(other)
    if absolute(place) == absolute(other):
        return True
    return not (is_pattern(place) or is_pattern(other)) and os.path.samefile(place, other)


def is_object(place: str) -> bool:
    """Whether the place is the URL of one object that is not empty. Raises `UsageError` without an answer."""
    if not is_url(place) or place.endswith("/") or not urls.split(place)[1]:
        return False
    try:
        return location.stat(place).size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(place, error) from None


def unreadable(place: str, error: Exception) -> UsageError:
    """The error for a URL that cannot be listed or read."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(f"{escaped(place)}: cannot be read: {said}")
