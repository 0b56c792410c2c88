"""A server of buckets for tests: moto's, in a process of its own, behind a door that fails as it is told."""

import http.client
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tests.terminals import wait_until

LOOPBACK = "127.0.0.1"
SECRET = "canary-of-a-secret-key"
FORBIDDEN, BROKEN, SILENT, CUT = "403", "500", "silent", "cut"  # what the door does instead of asking moto
_ERROR = "<Error><Code>{}</Code><Message>as the test asks</Message></Error>"
_CODES = {FORBIDDEN: "AccessDenied", BROKEN: "InternalError"}


@contextmanager
def moto() -> Iterator[int]:
    """The port of a running moto server."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: _answers(port), "the server of buckets")
            yield port
        finally:
            server.kill()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
        return True
    return False


class Bucket:
    """A bucket of its own behind a door of its own. `faults` maps a key, or "" for all keys, to what goes wrong."""

    def __init__(self, moto_port: int, name: str) -> None:
        self.name, self.faults = name, dict[str, str]()
        self.asked: Counter[tuple[str, str]] = Counter()  # (method, key) -> how often
        self._moto_port, self.closing = moto_port, threading.Event()
        self._door = _Doors(self)
        threading.Thread(target=self._door.serve_forever, daemon=True).start()
        self.forward("PUT", f"/{name}", {}, b"")

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{self._door.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "NO_PROXY": LOOPBACK,
        }

    def close(self) -> None:
        self.closing.set()
        self._door.shutdown()
        self._door.server_close()

    def put(self, key: str, content: bytes | Path) -> None:
        body = content.read_bytes() if isinstance(content, Path) else content
        status, _, _ = self.forward("PUT", f"/{self.name}/{quote(key)}", _SIGNED, body)
        assert status == 200

    def get(self, key: str) -> bytes | None:
        """The content of an object; None if there is none."""
        status, _, body = self.forward("GET", f"/{self.name}/{quote(key)}", _SIGNED, b"")
        return body if status == 200 else None

    def delete(self, key: str) -> None:
        status, _, _ = self.forward("DELETE", f"/{self.name}/{quote(key)}", _SIGNED, b"")
        assert status == 204

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self._moto_port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def fault_of(self, key: str) -> str | None:
        return self.faults.get(key) or self.faults.get("")


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
        key = unquote(urlsplit(self.path).path).removeprefix(f"/{bucket.name}").lstrip("/")
        bucket.asked[self.command, key] += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = bucket.fault_of(key)
        if fault == SILENT:
            bucket.closing.wait()
        elif fault in _CODES:
            self._send(int(fault), {}, _ERROR.format(_CODES[fault]).encode())
        else:
            status, headers, content = bucket.forward(self.command, self.path, dict(self.headers), body)
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
