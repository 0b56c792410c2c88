"""Images of web servers by https, from hosts that this process may ask. Knows no rows and no image formats.

A URL in a row must not let somebody look into the network of a worker. So only hosts that a setting of this machine
names are asked, every redirect is judged like a first URL, and a name is resolved once: its addresses are checked, and
one of those that passed is connected to. obstore is not used, as it neither lets a redirect be refused nor an address
be chosen. No proxy is used, for the same reason. Errors are the `OSError`s of `location`.
"""

import errno
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote, urljoin, urlsplit

from workers.machine.hosts import Allowed, read_hosts, read_networks
from workers.places import urls
from workers.places.urls import Unanswered

SETTING, NETWORKS_SETTING = "SAM3_IMAGE_HOSTS", "SAM3_IMAGE_NETWORKS"
SILENT_SECONDS, TRIES, PAUSE_SECONDS = 10.0, 3, 0.5  # all tries end well before SAM3_DECODE_SECONDS
MOST_REDIRECTS = 5
MOST_BYTES = 513 << 20  # of an answer that does not say how long it is; more than the limit of an image
REDIRECTS = (301, 302, 303, 307, 308)
NO_HEAD = (405, 501)  # from servers that know only GET
PASSING = (408, 425, 429)  # beside 5xx: what a server says when it would answer later

Seen = tuple[int, int]  # bytes, nanoseconds since 1970; 0 if the server does not say
_given, _allowed = ("", ""), Allowed()


def allow(hosts: str | None, networks: str | None) -> None:
    """Say once, when a process starts, which hosts it may ask: the values of the two settings."""
    global _given, _allowed
    _given = hosts or "", networks or ""
    _allowed = Allowed(read_hosts(_given[0]), read_networks(_given[1]))


def given() -> tuple[str, str]:
    """What `allow` was given, for a process that works for this one."""
    return _given


def refusal(url: str) -> str | None:
    """Why this process does not ask for a URL, in words; None if it does, or if the URL is no web address."""
    if not urls.is_web(url):
        return None
    try:
        host, port = _host(url)
    except ValueError:
        return "the URL has no host and port that can be read"
    if _allowed.has(host, port):
        return None
    named = host if port == 443 else f"{host}:{port}"
    return f"https images are fetched only from hosts that --image-hosts or {SETTING} names: {named} is none"


def stat(url: str) -> Seen:
    """Size and time of the image. Raises `OSError`."""
    seen = _fetched(url, "HEAD")[0]
    return seen if seen[0] else _fetched(url, "GET")[0]  # this server does not say the size, or does not know HEAD


def opened(url: str) -> tuple[Seen, Callable[[], bytes]]:
    """Size and time of the image, and a function that gives its content. Raises `OSError`."""
    seen, content = _fetched(url, "GET")
    return seen, lambda: content


def _fetched(url: str, method: str) -> tuple[Seen, bytes]:
    """Ask a few times, and again where a redirect leads to."""
    for left in reversed(range(TRIES)):
        try:
            return _followed(url, method)
        except Unanswered:
            if not left:
                raise
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("there is a last try")


def _followed(url: str, method: str) -> tuple[Seen, bytes]:
    for _ in range(1 + MOST_REDIRECTS):
        if (wrong := _fault(url) or refusal(url)) is not None:
            raise PermissionError(errno.EACCES, wrong)
        found = _asked(url, method)
        if not isinstance(found, str):
            return found
        url = urljoin(url, found)
    raise PermissionError(errno.EACCES, f"more than {MOST_REDIRECTS} redirects")


def _fault(url: str) -> str | None:
    """What is wrong with a URL that a redirect may have led to."""
    if not urls.is_web(url):
        return "the server redirects to a URL that is not https"
    return urls.fault(url, redirected=True)


def _asked(url: str, method: str) -> tuple[Seen, bytes] | str:
    """Size and time of the image, and with the method GET its content; or the URL that the server redirects to."""
    host, _ = _host(url)
    connection = _Checked(*_host(url), timeout=SILENT_SECONDS, context=_context())
    try:
        connection.request(method, _target(url), headers={"User-Agent": "sam3-queue", "Accept-Encoding": "identity"})
        with connection.getresponse() as answer:
            return _read(answer, method)
    except ssl.SSLCertVerificationError as error:
        raise PermissionError(
            errno.EACCES, f"{host} has no certificate that is trusted: {error.verify_message}"
        ) from None
    except (PermissionError, FileNotFoundError, Unanswered):
        raise
    except (OSError, http.client.HTTPException) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise Unanswered(f"{host} does not answer: {said}") from None
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse, method: str) -> tuple[Seen, bytes] | str:
    if answer.status in REDIRECTS and (there := answer.getheader("Location")):
        return there
    if method == "HEAD" and answer.status in NO_HEAD:
        return (0, 0), b""
    _judge(answer)
    size = _size(answer)
    content = b"" if method == "HEAD" or size > MOST_BYTES else answer.read(None if size else MOST_BYTES)
    return (size or len(content), _time(answer)), content


def _judge(answer: http.client.HTTPResponse) -> None:
    """Raise the error that the status of an answer means."""
    status, said = answer.status, f"the server says {answer.status} {answer.reason}".strip()
    if status == 200:
        return
    if status in (404, 410):
        raise FileNotFoundError(errno.ENOENT, said)
    if status >= 500 or status in PASSING:
        raise Unanswered(said)
    raise PermissionError(errno.EACCES, said)


class _Checked(http.client.HTTPSConnection):
    """A connection to an address of its host that was checked before."""

    def connect(self) -> None:
        plain = socket.create_connection((_address(self.host, self.port), self.port), self.timeout)
        try:
            self.sock = _context().wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def _address(host: str, port: int) -> str:
    """An address of the host that may be connected to. Raises `OSError`."""
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if _allowed.takes(ipaddress.ip_address(address.partition("%")[0])):
            return address
    raise PermissionError(
        errno.EACCES,
        f"{host} is at a private address, which no image is fetched from unless {NETWORKS_SETTING} names it",
    )


@lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    """Certificates are checked against the authorities of the system, or of the variable SSL_CERT_FILE."""
    return ssl.create_default_context()


def _host(url: str) -> tuple[str, int]:
    """Raises `ValueError`."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(url)
    return parts.hostname.rstrip("."), parts.port or 443


def _target(url: str) -> str:
    """Path and query as they are sent: what a URL may not hold is escaped, and what is escaped stays."""
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return f"{path}?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else path


def _size(answer: http.client.HTTPResponse) -> int:
    """Bytes of the content, of HEAD too; 0 if the server does not say."""
    said = answer.getheader("Content-Length") or ""
    return int(said) if said.isascii() and said.isdigit() else 0


def _time(answer: http.client.HTTPResponse) -> int:
    try:
        return int(parsedate_to_datetime(answer.getheader("Last-Modified") or "").timestamp()) * 10**9
    except (ValueError, OverflowError):
        return 0
