"""Objects in buckets of S3, Google Cloud Storage and Azure, by obstore. Knows no rows and no image formats.

Credentials, regions and endpoints are those of the process's environment, under the names that obstore documents, such
as AWS_ACCESS_KEY_ID, AWS_REGION and AWS_ENDPOINT_URL: they belong to the machine, and no run names them. What goes
wrong is an `OSError`: `FileNotFoundError` if there is no such object, `PermissionError` if it may not be read, and
`Unanswered` if the server cannot be reached or answers with an error of its own, after a few tries.
"""

import errno
import io
import mimetypes
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

from workers.errors import first_line, one_line
from workers.places import urls
from workers.places.urls import Unanswered

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import ObjectMeta, PutMode, ReadableFile, UpdateVersion
    from obstore.store import ObjectStore

EXTRA = "pip install 'sam3-queue[remote]'"
# Variables that name another server than the cloud's: obstore's names, of which the first one counts.
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}

NO_CREDENTIALS = "no credentials: set those of the bucket in the environment, such as"
_CREDENTIALS = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_SERVICE_ACCOUNT", "az": "AZURE_STORAGE_ACCOUNT_KEY"}
_NO_ACCOUNT = "Account must be specified"  # obstore, of Azure

# Servers of a cloud that give its machines credentials; elsewhere there are none.
_GIVE_CREDENTIALS = ("169.254.169.254", "metadata.google.internal", "metadata")

# All tries for one image together end well before SAM3_DECODE_SECONDS, 60 s, in which a thread is given up.
CONNECT_SECONDS, SILENT_SECONDS, TRY_SECONDS, RETRY_SECONDS, RETRIES = 5, 10, 40, 15, 4

PAGE_OBJECTS = 1000  # of a listing that are held at once; no server sends more in one answer
COMPARED_BYTES = 64 << 20  # of an object that is put in one request, which is held in memory

_STATUS = re.compile(r"non-2xx status code: (\d{3} [A-Za-z ]+)")
_ASKED = re.compile(r"performing [A-Z]+ (?:https?://([^/\s]+)|REDACTED)")  # without a URL if that has a signature
_CAUSE = re.compile(r'message: "([^"]+)"')
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STORE = re.compile(r"^Generic \w+ error: ")

Seen = tuple[int, int]  # bytes, nanoseconds since 1970


class Version(NamedTuple):
    """Which content of an object it is: S3 and Azure compare its tag, Google Cloud Storage its number."""

    e_tag: str | None
    number: str | None


def stat(url: str) -> Seen:
    """Size and time of the object. Raises `OSError`."""
    with _faults(url):
        import obstore

        store, key = _object(url)
        return _seen(obstore.head(store, key))


def opened(url: str) -> tuple[Seen, Callable[[], bytes]]:
    """Size and time of the object, and a function that then reads it whole. Both raise `OSError`."""
    with _faults(url):
        import obstore

        store, key = _object(url)
        answer = obstore.get(store, key)

    def content() -> bytes:
        with _faults(url):
            return bytes(answer.bytes())

    return _seen(answer.meta), content


def has_any(url: str) -> bool:
    """Whether there is an object whose key begins with that of the folder `url`. Raises `OSError`."""
    with _faults(url):
        import obstore

        bucket, key = urls.split(url)
        return any(obstore.list(_store(bucket), key.rstrip("/") or None, chunk_size=1))


def objects(folder: str) -> Iterator[tuple[str, int, int]]:
    """The objects below the folder `folder`, a URL, page by page: path below it, bytes, nanoseconds since 1970.

    Their order is that of the server. Raises `ValueError` for a key that no image can have, and `OSError`.
    """
    with _faults(folder):
        import obstore

        bucket, key = urls.split(folder)
        pages = obstore.list(_store(bucket), key.rstrip("/") or None, chunk_size=PAGE_OBJECTS)
    above = f"{key.rstrip('/')}/" if key else ""
    while True:
        with _faults(folder):
            page = next(pages, None)
        if page is None:
            return
        for meta in page:
            if meta["path"].startswith(above):  # not the empty object that stands for the folder itself
                yield meta["path"][len(above) :], *_seen(meta)


def reader(url: str) -> tuple[Version, BinaryIO] | None:
    """The version of the object and its content as a file, read part by part; None if there is none.

    Raises `OSError`: `FileNotFoundError` if there is no such bucket.
    """
    with _faults(url):
        import obstore

        store, key = _object(url)
        try:
            version = _version(obstore.head(store, key))
        except FileNotFoundError:
            require_bucket(url)
            return None
        return version, cast(BinaryIO, io.BufferedReader(_Parts(obstore.open_reader(store, key))))


def marks(url: str) -> tuple[Version, dict[str, str]] | None:
    """The version of the object and the texts that `put` was given for it; None if there is none. Raises `OSError`."""
    with _faults(url):
        import obstore

        store, key = _object(url)
        try:
            found = obstore.get(store, key, options={"head": True})
        except FileNotFoundError:
            return None
        return _version(found.meta), {str(name): str(text) for name, text in found.attributes.items()}


def delete(url: str) -> None:
    """Remove the object, if there is one. Raises `OSError`."""
    with _faults(url), suppress(FileNotFoundError):
        import obstore

        obstore.delete(*_object(url))


def put(url: str, content: Path | bytes, instead_of: Version | None, marks: Mapping[str, str] | None = None) -> bool:
    """Make the object of a file or of bytes, whole or not at all; `marks` are texts that are kept beside its content.

    False if there is another object than `instead_of` by then, as `reader` and `marks` give it, or None, no object.
    Contents of more than `COMPARED_BYTES` are sent in parts, which no server compares: for them this is asked just
    before, and not in the same step. Raises `OSError`.
    """
    with _faults(url):
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        store, key = _object(url)
        kind = mimetypes.guess_type(key)[0]
        attributes = {**(marks or {}), **({"Content-Type": kind} if kind else {})}
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if size > COMPARED_BYTES:
            found = reader(url)
            if (None if found is None else found[0]) != instead_of:
                return False
            obstore.put(store, key, content, attributes=attributes)
            return True
        mode: PutMode = "create"
        if instead_of is not None:
            known = {"e_tag": instead_of.e_tag, "version": instead_of.number}
            mode = cast("UpdateVersion", {name: text for name, text in known.items() if text is not None})
        try:
            obstore.put(store, key, content, mode=mode, attributes=attributes)
        except (AlreadyExistsError, PreconditionError):
            return False
        return True


def require_bucket(url: str) -> None:
    """Raise `FileNotFoundError` if there is no such bucket: a server says of an object only that it is not there."""
    with suppress(PermissionError):  # who may write need not be allowed to list
        has_any(url)


class _Parts(io.RawIOBase):
    """An object of obstore as a file of Python's."""

    def __init__(self, content: "ReadableFile") -> None:
        self._content = content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        part = bytes(self._content.read(len(view)))
        view[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._content.seek(offset, whence)


def _object(url: str) -> "tuple[ObjectStore, str]":
    bucket, key = urls.split(url)
    return _store(bucket), key


@lru_cache(maxsize=64)
def _store(bucket: str) -> "ObjectStore":
    """The client of a bucket, with its connections; used by all threads."""
    from obstore.store import from_url

    endpoint = _endpoint(bucket.partition("://")[0])
    return from_url(
        bucket,
        client_options={
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=SILENT_SECONDS),
            "timeout": timedelta(seconds=TRY_SECONDS),
            # The operator has named such an endpoint. Without one all servers are asked by TLS.
            "allow_http": endpoint.startswith("http://"),
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    )


def _endpoint(scheme: str) -> str:
    """The server that the environment names; empty if it names none. Raises `Unanswered` for a text that is no URL."""
    name = next(filter(os.environ.get, ENDPOINTS[scheme]), None)
    if name is None:
        return ""
    endpoint = os.environ[name]
    with suppress(ValueError):  # a port or an address that is none
        parts = urlsplit(endpoint)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", endpoint):
            return endpoint
    raise Unanswered(f"{name} names no server: write it like https://host:9000")


def _version(meta: "ObjectMeta") -> Version:
    return Version(meta["e_tag"], meta["version"])


def _seen(meta: "ObjectMeta") -> Seen:
    return meta["size"], int(meta["last_modified"].timestamp()) * 10**9


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """Turn errors of obstore into the `OSError`s of this module."""
    try:
        yield
    except ModuleNotFoundError:
        raise Unanswered(f"{url.partition('://')[0]}:// needs the extra `remote`: {EXTRA}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # judged already
            raise
        raise _judged(error, url) from None


def _judged(error: Exception, url: str) -> Exception:
    from obstore.exceptions import InvalidPathError, PermissionDeniedError, UnauthenticatedError

    said = _in_words(error, urls.split(url)[0])
    match error:
        case _ if said.startswith(NO_CREDENTIALS):
            return Unanswered(said)
        case PermissionDeniedError() | UnauthenticatedError() | PermissionError():
            return PermissionError(errno.EACCES, said)
        case ValueError() | InvalidPathError():  # a key that no object can have
            return ValueError(said)
    status = _STATUS.search(str(error))  # obstore has no class for what a server says of a whole bucket
    if isinstance(error, FileNotFoundError) or (status is not None and status[1].startswith("404")):
        return FileNotFoundError(errno.ENOENT, said)
    if status is not None and status[1].startswith(("401", "403")):
        return PermissionError(errno.EACCES, said)
    return Unanswered(said)


def _in_words(error: Exception, bucket: str) -> str:
    """The error in one line: what the server of the bucket says, or which one does not answer."""
    text = str(error)
    asked, status = _ASKED.search(text), _STATUS.search(text)
    if asked is not None and asked[1] in _GIVE_CREDENTIALS:
        return f"{NO_CREDENTIALS} {_CREDENTIALS[bucket.partition('://')[0]]}"
    if _NO_ACCOUNT in text:
        return "no account: set AZURE_STORAGE_ACCOUNT_NAME in the environment"
    if status is not None:
        code = _CODE.search(text)
        return f"the server says {status[1].strip()}" + (f" ({code[1]})" if code else "")
    said = one_line(urls.without_credentials(_STORE.sub("", first_line(error).rpartition(" - ")[2])))
    if asked is None:
        return said
    cause = _CAUSE.search(text)
    why = cause[1] if cause else "it takes too long" if "TimedOut" in text else said
    server = asked[1].rpartition("@")[2] if asked[1] else bucket
    return f"{server} does not answer: {why}"
