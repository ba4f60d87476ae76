"""A server of videos that fails in fifteen ways until it is switched to be well."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler

from tests.stages.loopback_server import LoopbackServer, running

STATUSES = (401, 403, 404, 410, 429, 500, 503)

FAILURES = (
    *map(str, STATUSES),
    *("breaks off", "loops", "says too much", "says too little", "closes", "stalls", "never ends", "sends a page"),
)
"""Fifteen ways."""

RETRY_AFTER_S = 1
PAGE = b"<!DOCTYPE html><title>Sign in</title>\n"


class FailingServer(LoopbackServer):
    """Serves `files` below /good/<name>, and fails at /<number of a failure>/<name> until it `is_well`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(_Handler)
        self.files = files
        self.is_well = False
        self.is_down = False
        self.tells_etags = True
        self.num_requests: dict[str, int] = {}
        """Path -> bodies that were asked for."""

    def failing(self, name: str) -> list[str]:
        """URLs of a file that fail, one for each of `FAILURES`."""
        return [f"{self.url}/{number}/{number}-{name}" for number in range(len(FAILURES))]

    def asked_for(self, place: str) -> dict[str, int]:
        """How often the bodies below a place were asked for."""
        return {path: number for path, number in self.num_requests.items() if path.startswith(f"/{place}/")}


class _Handler(BaseHTTPRequestHandler):
    server: FailingServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self.server.num_requests[self.path] = self.server.num_requests.get(self.path, 0) + 1
        self._answer(has_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps requests out of the test's output."""

    def _answer(self, *, has_body: bool) -> None:
        self.close_connection = True
        _, place, name = self.path.split("/", 2)
        data = self.server.files.get(name, b"a.mp4\n")
        if self.server.is_down:
            self._begin(503, 0)
            return
        if place == "good" or self.server.is_well:
            self._begin(200, len(data), **({"ETag": f'"{name}"'} if self.server.tells_etags else {}))
            if has_body:
                self.wfile.write(data)
            return
        self._fail(FAILURES[int(place)], data, has_body=has_body)

    def _begin(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _fail(self, failure: str, data: bytes, *, has_body: bool) -> None:
        if failure.isdigit():
            return self._begin(int(failure), 0, **({"Retry_After": str(RETRY_AFTER_S)} if failure == "429" else {}))
        if failure == "loops":
            return self._begin(302, 0, Location=self.path)
        if failure == "closes":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if failure == "sends a page":
            self._begin(200, len(PAGE), Content_Type="text/html")
            return self.wfile.write(PAGE) and None if has_body else None
        length = {"says too much": 2 * len(data), "says too little": len(data) // 2, "never ends": None}
        self._begin(200, length.get(failure, len(data)))
        if not has_body:
            return None
        self.wfile.write(data if failure == "says too much" else data[: len(data) // 2])
        self.wfile.flush()
        if failure == "stalls":
            self.server.stopping.wait()
        while failure == "never ends" and not self.server.stopping.is_set():
            self.wfile.write(bytes(1 << 16))
        return None


def failing_server(files: Mapping[str, bytes]) -> AbstractContextManager[FailingServer]:
    """Runs a server of these files."""
    return running(FailingServer(files))
