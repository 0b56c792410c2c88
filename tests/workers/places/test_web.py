"""Images by https: from a server with a certificate of our own authority, and from nowhere that is not allowed."""

import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tests.tls import make_authority
from workers.errors import ErrorClass
from workers.inference.reading.images import ReadRules, UnreadableImage, read_image
from workers.places import location, web

LOOPBACK = "127.0.0.0/8,::1/128"
Answers = dict[str, tuple[int, dict[str, str], bytes]]  # path and query -> status, headers, body


class Site:
    """A web server on loopback."""

    def __init__(self, certificate: Path) -> None:
        self.answers: Answers = {}
        self.asked: list[str] = []
        site = self

        class Visitor(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(f"{self.command} {self.path}")
                status, headers, body = site.answers.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Visitor)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        return f"https://{self.host}{path}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusted(authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    web._context.cache_clear()
    yield
    web._context.cache_clear()


@pytest.fixture
def site(authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site that may be asked; it has an image at /a.jpg."""
    monkeypatch.setattr(web, "PAUSE_SECONDS", 0.0)
    site = Site(authority[1])
    web.allow(site.host, LOOPBACK)
    yield site
    web.allow("", "")
    site.close()


@pytest.fixture
def photo(tmp_path: Path, site: Site) -> bytes:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    site.answers["/a.jpg"] = (200, {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, content)
    return content


@pytest.fixture
def refused(site: Site) -> Callable[[str], tuple[str, str]]:
    """The class and the message of an image that cannot be read."""

    def refused(url: str) -> tuple[str, str]:
        with pytest.raises(UnreadableImage) as error:
            read_image(url, ReadRules())
        return error.value.error_class, error.value.message

    return refused


def test_an_image_is_fetched_and_its_size_and_time_are_known(trusted: None, site: Site, photo: bytes) -> None:
    image = read_image(site.url("/a.jpg"), ReadRules())
    assert image.pixels.shape == (30, 40, 3)
    assert image.file == location.stat(site.url("/a.jpg")) == location.FileSeen(len(photo), 1767225600 * 10**9)
    assert site.asked == ["GET /a.jpg", "HEAD /a.jpg"]


def test_a_path_and_a_query_are_sent_as_they_are_and_blanks_are_escaped(
    trusted: None, site: Site, photo: bytes
) -> None:
    site.answers["/p/%C3%A4%20b%2Fc.jpg?w=10&h=2%2B"] = (200, {"Content-Length": ""}, photo)
    image = read_image(site.url("/p/ä b%2Fc.jpg?w=10&h=2%2B"), ReadRules())
    assert image.file == location.FileSeen(len(photo), 0)


def test_a_redirect_is_followed_if_it_leads_to_an_allowed_host(
    trusted: None, site: Site, photo: bytes, refused: Callable[[str], tuple[str, str]]
) -> None:
    places = {"/r": "/a.jpg", "/plain": f"http://{site.host}/a.jpg", "/other": "https://elsewhere.example/a.jpg"}
    places |= {"/user": f"https://me:canary@{site.host}/a.jpg", "/round": "/round", "/file": "file:///etc/passwd"}
    site.answers |= {path: (302, {"Location": place}, b"") for path, place in places.items()}
    site.answers["/signed"] = (307, {"Location": "/a.jpg?X-Amz-Signature=canary"}, b"")
    site.answers["/a.jpg?X-Amz-Signature=canary"] = site.answers["/a.jpg"]

    assert read_image(site.url("/r"), ReadRules()).pixels.shape == (30, 40, 3)
    assert read_image(site.url("/signed"), ReadRules()).pixels.shape == (30, 40, 3)
    said = {path: refused(site.url(path)) for path in ("/plain", "/other", "/user", "/round", "/file")}
    assert {error_class for error_class, _ in said.values()} == {"permission"}
    assert "is not https" in said["/plain"][1]
    assert "is not https" in said["/file"][1]
    assert "elsewhere.example is none" in said["/other"][1]
    assert "more than 5 redirects" in said["/round"][1]
    assert "canary" not in str(said)


@pytest.mark.parametrize(
    ("status", "error_class", "tries"),
    [(404, "missing", 1), (410, "missing", 1), (401, "permission", 1), (403, "permission", 1), (400, "permission", 1)]
    + [(status, "no_answer", 3) for status in (429, 500, 503)],
)
def test_what_a_server_says_has_a_class_and_only_what_may_pass_is_asked_again(
    trusted: None,
    site: Site,
    refused: Callable[[str], tuple[str, str]],
    status: int,
    error_class: str,
    tries: int,
) -> None:
    site.answers["/x"] = (status, {}, b"")
    found, said = refused(site.url("/x"))
    assert (found, len(site.asked)) == (error_class, tries)
    assert f"the server says {status}" in said


def test_an_answer_that_ends_early_is_asked_for_again(
    trusted: None, site: Site, photo: bytes, refused: Callable[[str], tuple[str, str]]
) -> None:
    site.answers["/cut"] = (200, {"Content-Length": str(2 * len(photo))}, photo)
    assert refused(site.url("/cut"))[0] == ErrorClass.NO_ANSWER
    assert len(site.asked) == 3


def test_a_server_without_a_trusted_certificate_or_of_another_name_is_not_asked(
    site: Site, photo: bytes, refused: Callable[[str], tuple[str, str]]
) -> None:
    found, said = refused(site.url("/a.jpg"))
    assert found == ErrorClass.PERMISSION
    assert "localhost has no certificate that is trusted" in said
    assert site.asked == []


def test_a_name_at_a_private_address_is_not_connected_to(
    trusted: None, site: Site, photo: bytes, refused: Callable[[str], tuple[str, str]]
) -> None:
    """Whatever the name is: it is resolved once, and the address that is checked is the one that is connected to."""
    for networks in ("", "10.0.0.0/8"):
        web.allow(site.host, networks)
        assert refused(site.url("/a.jpg")) == (
            "permission",
            "may not be read: localhost is at a private address, which no image is fetched from unless "
            "SAM3_IMAGE_NETWORKS names it",
        )
    assert site.asked == []


def test_a_process_that_was_allowed_nothing_asks_nobody() -> None:
    assert web.refusal("https://images.example.com/a.jpg") == (
        "https images are fetched only from hosts that --image-hosts or SAM3_IMAGE_HOSTS names: "
        "images.example.com is none"
    )
    with pytest.raises(PermissionError):
        location.stat("https://images.example.com/a.jpg")
