"""Flower's pages as a browser asks for them."""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPResponse
from typing import Any

from tests.terminals import PATIENCE

COLUMNS = ["uuid", "state", "args", "result", "received", "started", "runtime", "worker"]


class Browser:
    """Somebody who looks at Flower's pages."""

    def __init__(self, port: int, login: str | None, host: str | None = None) -> None:
        self._start = f"http://127.0.0.1:{port}"
        self._headers = {} if login is None else {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        if host is not None:
            self._headers["Host"] = host  # the name by which the server is called
        self.seen = ""

    def get(self, page: str, form: dict[str, str] | None = None) -> str:
        data = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self._start + page, data, self._headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            assert isinstance(response, HTTPResponse)
            text = response.read().decode()
        self.seen += text
        return text

    def status(self, page: str, form: dict[str, str] | None = None) -> int:
        try:
            self.get(page, form)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except urllib.error.URLError:
            return 0
        return 200

    def tasks(self) -> list[dict[str, Any]]:
        """The rows of the tasks page, asked for as the page itself does."""
        form = {"draw": "1", "start": "0", "length": "50", "search[value]": "", "order[0][column]": "0"}
        form |= {"order[0][dir]": "asc"} | {f"columns[{n}][data]": name for n, name in enumerate(COLUMNS)}
        rows = json.loads(self.get("/tasks/datatable", form))["data"]
        assert isinstance(rows, list)
        return rows
