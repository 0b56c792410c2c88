"""The Celery application of Flower, as `celery -A workers.cli.flower_app flower`; knows no nodes.

Within this process only, Flower is taught two things: which server to trust behind a rediss:// URL, and by which names
it may be called. A page on the Internet can make its own name mean 127.0.0.1 (DNS rebinding), and would then read ours.
"""

from typing import Any

import flower.command
from celery import Celery
from flower.app import Flower
from tornado.httputil import HTTPServerRequest
from tornado.web import ErrorHandler

from workers.broker.app import create_app
from workers.settings import load_settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class GuardedFlower(Flower):  # type: ignore[misc]  # it has no types
    """Answers 403 on loopback to whoever calls it by another name, unless that one has to log in: a browser gives a
    login to the name only for which it was typed."""

    def find_handler(self, request: HTTPServerRequest, **more: Any) -> Any:
        called = request.host_name.strip("[]")
        open_to_all = not (self.options.basic_auth or self.options.auth)
        if open_to_all and self.options.address in LOOPBACK and called not in LOOPBACK:
            return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})
        return super().find_handler(request, **more)


def create() -> Celery:
    """The application, its TLS settings also where Flower's own Redis client looks for them: it drops the URL's."""
    app = create_app(load_settings())
    with app.connection_for_read() as connection:
        if isinstance(connection.ssl, dict):
            app.conf.broker_use_ssl = connection.ssl
    return app


flower.command.Flower = GuardedFlower
app = create()
app.set_current()
