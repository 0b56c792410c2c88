"""TLS with a private certificate authority: the bundled Valkey is built without it, so it stands behind this."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def make_authority(folder: Path) -> tuple[Path, Path]:
    """The authority's certificate, and one file with the key and the certificate of its server `localhost`."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    authority, key, server = folder / "ca.pem", folder / "ca.key", folder / "server.pem"
    _openssl("req", "-x509", "-subj", "/CN=ours", "-keyout", str(key), "-out", str(authority))
    names = ("-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE")
    own, signed = folder / "server.key", folder / "server.crt"
    signing = ("-CA", str(authority), "-CAkey", str(key))
    _openssl("req", "-x509", "-subj", "/CN=localhost", *names, *signing, "-keyout", str(own), "-out", str(signed))
    server.write_text(own.read_text() + signed.read_text())
    return authority, server


def _openssl(command: str, *arguments: str) -> None:
    made = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    subprocess.run(["openssl", command, *made, *arguments], check=True, capture_output=True)


@contextmanager
def before(port: int, certificate: Path) -> Iterator[int]:
    """The port on which what listens on `port` of this machine can be reached by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, context, port), daemon=True).start()
        yield listener.getsockname()[1]


def _serve(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with suppress(OSError):
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_connect, args=(plain, context, port), daemon=True).start()


def _connect(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    with (
        suppress(OSError),
        context.wrap_socket(plain, server_side=True) as outside,
        socket.create_connection(("127.0.0.1", port)) as inside,
    ):
        threading.Thread(target=_pump, args=(inside, outside), daemon=True).start()
        _pump(outside, inside)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
