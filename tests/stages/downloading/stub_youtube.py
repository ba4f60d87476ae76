"""A YouTube of the tests' own, which yt-dlp asks in place of the real one: a plugin, and a server on loopback.

Only those who send the session's cookie are answered, and the addresses of its media are signed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

from tests.stages.loopback_server import LoopbackServer

SESSION, SIGNATURE = "hush-c00kie-2718", "hush-s1gned-1414"
PLUGIN = """
from yt_dlp.extractor.youtube import YoutubeIE
from yt_dlp.utils import ExtractorError

class _StubIE(YoutubeIE, plugin_name="stub"):
    def _real_extract(self, url):
        name = self._match_id(url)
        page = self._download_json("{server}/watch/" + name, name)
        if "refusal" in page:
            raise ExtractorError(page["refusal"], expected=True)
        return {{"id": name, "title": name, "formats": [
            {{"url": "{server}" + page["media"], "format_id": "18", "ext": "mp4", "height": 240, "vcodec": "avc1"}},
        ]}}
"""


class StubYoutube(LoopbackServer):
    """Has videos (id -> path) and refusals (id -> what YouTube says); what was asked for is in `paths`."""

    def __init__(self, videos: Mapping[str, Path], refusals: Mapping[str, str]) -> None:
        super().__init__(_Handler)
        self.videos, self.refusals = videos, refusals
        self.paths: list[str] = []

    def install(self, directory: Path) -> tuple[Path, Path]:
        """Writes the plugin and yt-dlp's options; returns the folder for Python's path, and the options' file."""
        extractors = directory / "plugins/yt_dlp_plugins/extractor"
        extractors.mkdir(parents=True)
        (extractors / "stub.py").write_text(PLUGIN.format(server=self.url))
        cookies = directory / "cookies.txt"
        cookies.write_text(f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tSESSION\t{SESSION}\n")
        options = directory / "yt-dlp.conf"
        options.write_text(f"--cookies {cookies}\n")
        return directory / "plugins", options


class _Handler(BaseHTTPRequestHandler):
    server: StubYoutube
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keeps requests out of the test's output."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.paths.append(parts.path)
        kind, _, name = parts.path.lstrip("/").partition("/")
        if f"SESSION={SESSION}" not in self.headers.get("Cookie", ""):
            return self._answer(403, b"")
        if kind == "watch":
            refusal = self.server.refusals.get(name)
            page = {"refusal": refusal} if refusal else {"media": f"/media/{name}?expire=9&signature={SIGNATURE}"}
            return self._answer(200, json.dumps(page).encode())
        if f"signature={SIGNATURE}" not in parts.query:
            return self._answer(403, b"")
        data = self.server.videos[name].read_bytes()
        asked = self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        return self._answer(206 if asked else 200, data[first:], f"bytes {first}-{len(data) - 1}/{len(data)}")

    def _answer(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if status == 206:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body)
