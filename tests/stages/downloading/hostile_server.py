"""A server of real videos with every bad manner of the web, which writes down when it was asked for what."""

from __future__ import annotations

import bisect
import gzip
import re
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from tests.stages.loopback_server import LoopbackServer, running

MANNERS = {
    "good": "downloaded",
    "noranges": "downloaded",
    "slow": "downloaded",
    "truncating": "downloaded",
    "broken": "failed",
    "toolong": "downloaded",
    "redirect": "downloaded",
    "loop": "failed",
    "403": "blocked",
    "401": "private",
    "404": "gone",
    "410": "gone",
    "451": "region",
    "busy": "downloaded",
    "burst": "downloaded",
    "500": "failed",
    "lying": "downloaded",
    "page": "downloaded",
    "emptypage": "unusable",
    "liar": "unusable",
    "hang": "failed",
    "rubbish": "unusable",
    "ftp": "unusable",
    "nowhere": "unusable",
    "chunked": "downloaded",
    "packed": "downloaded",
    "endless": "downloaded",
    "capped": "downloaded",
    "shifted": "downloaded",
    "changing": "downloaded",
    "empty": "unusable",
    "odd": "failed",
}
"""First part of a path -> what becomes of a link to it."""


@dataclass(frozen=True)
class SeenRequest:
    """A request that came."""

    at_s: float
    path: str
    range: str
    client: str
    """Address that it came from."""
    secrets: str
    """Cookies, and user and password."""


class HostileServer(LoopbackServer):
    """Serves `files` at /<manner>/<name>; all that came is in `requests`."""

    def __init__(self, files: Mapping[str, bytes], host: str = "127.0.0.1") -> None:
        super().__init__(_Handler, host)
        self.files = files
        self.requests: list[SeenRequest] = []
        self.lock = threading.Lock()
        self.is_well = False
        """All manners are good from now on."""
        self.num_hosts_awaited = 1
        """Until so many hosts have asked for something, each answer takes a second: none does all the work alone."""

    @property
    def lacks_hosts(self) -> bool:
        return len({request.client for request in self.requests}) < self.num_hosts_awaited

    def paths(self) -> list[str]:
        """Returns the paths that were asked for, in order."""
        return [request.path for request in self.requests]

    def most_within(self, seconds: float) -> int:
        """Returns the largest number of requests of any so many seconds."""
        times = sorted(request.at_s for request in self.requests)
        return max(bisect.bisect_right(times, at + seconds) - first for first, at in enumerate(times))


class _Handler(BaseHTTPRequestHandler):
    server: HostileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keeps requests out of the test's output."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        with server.lock:
            num_before = server.paths().count(self.path)
            secrets = self.headers.get("Cookie", "") + self.headers.get("Authorization", "")
            server.requests.append(SeenRequest(time.monotonic(), self.path, asked, self.client_address[0], secrets))
            lacks_hosts = server.lacks_hosts
        if lacks_hosts:
            time.sleep(1.0)
        self.close_connection = True
        manner, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        data = server.files.get(name)
        if server.is_well and manner not in ("page", "media"):
            manner = "good"
        if data is None:
            return self._begin(404, 0)
        if location := self._location(manner, name):
            return self._begin(302, 0, Location=location)
        if status := self._status(manner, asked, num_before):
            return self._begin(status[0], status[1], **status[2])
        if manner in ("page", "emptypage", "liar"):
            media = f'<video src="/media/{name}"></video>' if manner == "page" else ""
            text = f"<!DOCTYPE html><html><head><title>A page</title></head><body>{media}</body></html>".encode()
            self._begin(200, len(text), **{"Content-Type": "video/mp4" if manner == "liar" else "text/html"})
            return self._send(text)
        if manner == "rubbish":
            self._begin(200, 1 << 16)
            return self._send(bytes(range(256)) * 256)
        if manner in ("chunked", "packed", "endless"):
            return self._serve_without_length(manner, data)
        return self._serve(manner, data, asked, num_before)

    def _status(self, manner: str, asked: str, num_before: int) -> tuple[int, str, dict[str, str]] | None:
        """Returns status, length and further headers of an answer without a body."""
        if re.fullmatch(r"4\d\d|5\d\d", manner):
            return int(manner), "0", {}
        if manner == "burst" and num_before < 2:
            return 503, "0", {}
        if manner == "login" and not self.headers.get("Authorization"):
            return 401, "0", {}
        if manner == "empty":
            return 416 if asked else 200, "0", {}
        manners: dict[str, tuple[int, str, dict[str, str]]] = {
            "later": (503, "0", {"Retry-After": "1000000000"}),
            "odd": (503, "9" * 5000, {"Retry-After": "\xb2"}),
        }
        if num_before < 1:
            manners["busy"] = 429, "0", {"Retry-After": "1"}
        return manners.get(manner)

    def _location(self, manner: str, name: str) -> str | None:
        locations = {"redirect": f"/good/{name}", "toapage": f"/page/{name}", "loop": self.path}
        locations["elsewhere"] = f"{self.server.url.replace('127.0.0.1', 'localhost')}/good/{name}"
        return (locations | {"ftp": "ftp://127.0.0.1/a.mp4", "nowhere": "http://[::1/a.mp4"}).get(manner)

    def _serve_without_length(self, manner: str, data: bytes) -> None:
        """Sends all in pieces, or packed although nobody asked for it, or until the connection ends."""
        if manner == "endless":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp4\r\n\r\n")
            return self._send(data)
        if manner == "packed":
            data = gzip.compress(data, 1)
            self._begin(200, len(data), **{"Content-Encoding": "gzip", "ETag": '"packed"'})
            return self._send(data)
        self._begin(200, None, **{"Transfer-Encoding": "chunked"})
        for start in range(0, len(data), 50_000):
            piece = data[start : start + 50_000]
            self._send(b"%x\r\n%s\r\n" % (len(piece), piece))
        return self._send(b"0\r\n\r\n")

    def _serve(self, manner: str, data: bytes, asked: str, num_before: int) -> None:
        if manner == "noranges" or (manner == "changing" and self.headers.get("If-Range")):
            asked = ""
        first = int(asked.removeprefix("bytes=").partition("-")[0] or 0) if asked else 0
        if manner == "shifted" and first:
            first -= 1
        body = data[first:][: 20_000 if asked and manner == "capped" else None]
        etag = str(num_before if manner == "changing" else len(data))
        headers = {"ETag": f'"{etag}"', "Content-Type": "text/html" if manner == "lying" else "video/mp4"}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
        length = 2 * len(body) if manner == "toolong" else len(body)
        self._begin(206 if asked else 200, length, **headers)
        if manner == "hang":
            self._send(body[: len(body) // 4])
            self.server.stopping.wait()
        elif manner == "broken" or (manner == "truncating" and num_before < 2):
            self._send(body[: len(body) // 3] if manner == "truncating" else b"")
        elif manner == "slow":
            for start in range(0, len(body), max(1, len(body) // 8)):
                self._send(body[start : start + max(1, len(body) // 8)])
                time.sleep(0.05)
        else:
            self._send(body)

    def _send(self, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(data)
            self.wfile.flush()

    def _begin(self, status: int, length: int | str | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()


def hostile_server(files: Mapping[str, bytes]) -> AbstractContextManager[HostileServer]:
    """Runs a server of these files."""
    return running(HostileServer(files))
