"""The Celery application of Flower, for `celery -A workers.cli.flower_app flower`; knows no nodes.

It changes Flower in this process in two ways: which server Flower trusts behind a rediss:// URL, and by which host
names Flower may be called. Without the second, a web page could make its own host name mean 127.0.0.1 and read Flower's
pages (DNS rebinding, https://en.wikipedia.org/wiki/DNS_rebinding).
"""

from typing import Any

import flower.command
from celery import Celery
from flower.app import Flower
from tornado.httputil import HTTPServerRequest
from tornado.web import ErrorHandler

from workers.broker.app import create_app
from workers.machine.hosts import LOOPBACK
from workers.settings import load_settings


class GuardedFlower(Flower):  # type: ignore[misc]  # it has no types
    """Answers 403 to requests on loopback that use another host name than that of this machine.

    If Flower asks for a login no such check is needed: a browser sends a login only to the host name that the user
    entered it for.
    """

    def find_handler(self, request: HTTPServerRequest, **more: Any) -> Any:
        called = request.host_name.strip("[]")
        open_to_all = not (self.options.basic_auth or self.options.auth)
        if open_to_all and self.options.address in LOOPBACK and called not in LOOPBACK:
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **more)


def create() -> Celery:
    """Make the application. Its TLS settings are stored where Flower's own Redis client finds them, as that client
    ignores those of the URL."""
    app = create_app(load_settings())
    with app.connection_for_read() as connection:
        if isinstance(connection.ssl, dict):
            app.conf.broker_use_ssl = connection.ssl
    return app


flower.command.Flower = GuardedFlower
app = create()
app.set_current()
