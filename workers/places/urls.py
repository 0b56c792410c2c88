"""The URLs by which images are named: which ones are read, how they are spelled, what is wrong. Asks no server.

A URL that holds a credential is no name of an image: names are stored, printed and given back in results.
"""

import re
from urllib.parse import parse_qsl, unquote, urlsplit

BUCKETS = ("s3", "gs", "az")  # S3, Google Cloud Storage, Azure
LONGEST_KEY = 1024  # bytes; the limit of S3, Google Cloud Storage and Azure alike
WEB = "https://"
READ = "s3://, gs://, az:// or https://"

_ANY = re.compile(r"[a-z][a-z0-9+.-]*://|file:/|data:\w+/", re.IGNORECASE)
_READ = re.compile(f"({'|'.join(BUCKETS)}|https)://", re.IGNORECASE)
_SECRET_KEY = re.compile(r"sig$|signature|token|secret|passw|credential|api.?key|access.?key", re.IGNORECASE)
_QUERY = re.compile(r"\b(https?://[^\s?]*)\?[^\s]*")
_USER = re.compile(r"(://)[^/\s]*@")


class Unanswered(OSError):
    """A server did not answer, or not with what it was asked for. The object may be there: another try may get it."""

    def __init__(self, said: str) -> None:
        super().__init__(0, said)


def is_url(place: str) -> bool:
    """Whether the place is a URL that is read."""
    return "://" in place and _READ.match(place) is not None


def is_web(place: str) -> bool:
    """Whether the place is the URL of a web server."""
    return place[: len(WEB)].lower() == WEB


def fault(path: str, *, redirected: bool = False) -> str | None:
    """What is wrong with a path that is a URL, in words and without the URL; None if it is none, or can be read.

    A web server may redirect to a URL with a signature, which is never recorded.
    """
    if (found := _ANY.match(path)) is None:
        return None
    if not is_url(path):
        of_disk = found[0].lower().startswith("file:")
        cure = "write the path alone, such as /data/a.jpg" if of_disk else f"give the path of a local copy, or {READ}"
        return f"'{found[0]}' is a URL that is not read; {cure}"
    host, _, key = path[found.end() :].partition("/")
    if "@" in host:
        return "the URL holds a user or a password; leave them out, and give them to the workers' environment"
    if is_web(path):
        return _web_fault(path, key, redirected=redirected)
    if not host or not key:
        return "the URL names no object; write it like s3://bucket/folder/a.jpg"
    if any(name in ("", ".", "..") for name in key.split("/")):
        return "the URL holds an empty name, . or .., which no bucket is asked for; give the object another key"
    if len(key.encode()) > LONGEST_KEY:
        return f"key of {len(key.encode())} bytes; shorten it to {LONGEST_KEY}"
    return None


def _web_fault(url: str, target: str, *, redirected: bool) -> str | None:
    if not redirected and holds_credential(url):
        return "the URL holds a signature or a token, which ends before a run may; use s3://, gs:// or az://"
    if folded_dots(target.partition("?")[0]):
        return "the URL holds . or .. in its path; write it without"
    return None


def holds_credential(path: str) -> bool:
    """Whether a text that may be a URL names a user, or has a signature or a token in its query."""
    if _ANY.match(path) is None:
        return False
    try:
        parts = urlsplit(path)
    except ValueError:  # a host in brackets that is no address
        return True
    return "@" in parts.netloc or any(_SECRET_KEY.search(name) for name, _ in parse_qsl(parts.query, True))


def without_credentials(text: str) -> str:
    """A text without what stands before the host of a URL in it and in the query of a web address in it."""
    return _QUERY.sub(r"\1?***", _USER.sub(r"\1***@", text))


def normal(url: str) -> str:
    """The one spelling of a URL: its scheme and host in lower case. What follows may differ by case."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}"


def split(url: str) -> tuple[str, str]:
    """The bucket of a URL as a URL of its own, and the key of the object in it, empty if there is none."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


def folded_dots(path: str) -> bool:
    """Whether a part of the path is `.` or `..`, written plainly or as %2e."""
    return any(unquote(name) in (".", "..") for name in path.split("/"))
