"""Sites such as YouTube, and web pages with a video, through yt-dlp: where the video's file lies, and what it says.

yt-dlp only finds the file and its format; the bytes are fetched as those of any server, the chosen seconds alone where
the server allows. What it can only fetch itself, such as the pieces of a stream, it fetches whole; that is cut later.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from pipeline.core.secrets import masked
from stages.downloading.address_guard import PrivateAddressError
from stages.downloading.http_files import too_large
from stages.downloading.problems import LinkError, Problem, problem_of_site
from stages.video.lists.hosts import host_of

MISSING: Final = (
    "links of sites and pages need yt-dlp: pip install '.[youtube]' where percepts' source lies, or yt-dlp itself"
)
DIRECT: Final = ("http", "https")
NOT_THE_USERS: Final = (
    "ignoreerrors",  # yt-dlp's command sets it, and what a site says would be lost
    *("download_archive", "download_ranges", "external_downloader", "max_downloads", "paths", "wait_for_video"),
    *("simulate", "skip_download"),
    *("writeinfojson", "writesubtitles", "writeautomaticsub", "writethumbnail", "writedescription", "print_to_file"),
)
"""Options of the user's file that have no effect: downloads, their account and their files are this program's."""


@dataclass(frozen=True)
class SiteFile:
    """The place of a video's file."""

    url: str
    headers: dict[str, str]
    """Headers of its request, cookies among them."""
    is_direct: bool
    """True if it is one file of a web server."""
    info: dict[str, Any]
    """The facts that yt-dlp gives."""


@cache
def _user_options(path: str | None) -> dict[str, Any]:
    """Returns the options of a user's own file of yt-dlp's command line, as `YoutubeDL` takes them."""
    if path is None:
        return {}
    import yt_dlp

    given = ["--ignore-config", "--config-locations", path]
    options: dict[str, Any] = yt_dlp.parse_options(given).ydl_opts
    return options


class Site:
    """yt-dlp with the manners of this project."""

    def __init__(
        self,
        *,
        max_height: int,
        options_file: str | None,
        stall_s: float,
        permit: Callable[[str, bool], None],
        beat: Callable[[], None],
    ) -> None:
        """Takes `permit`, called before each request, and `beat`, called after it.

        `permit` gets the host, and whether the request is for a page, as opposed to a piece of a stream.

        Raises:
            LinkError: yt-dlp is not installed, or cannot read its options.
        """
        try:
            from yt_dlp import YoutubeDL
        except ImportError as error:
            raise LinkError(Problem(status="failed", reason=MISSING)) from error

        class PoliteYoutubeDL(YoutubeDL):  # type: ignore[misc]  # yt-dlp has no types
            """The downloader of yt-dlp, with a permit for each request."""

            is_page = True

            def urlopen(self, req: Any) -> Any:
                """Makes a request, and those that its redirects lead to."""
                host = host_of(req if isinstance(req, str) else getattr(req, "url", "") or req.full_url)[0]
                permit(host, self.is_page)
                beat()
                with _redirects(lambda: permit(host, self.is_page)):
                    return super().urlopen(req)

            def save_cookies(self) -> None:
                """Leaves the user's file as it is: every process of the run reads it, and none may find half of it."""

        small = f"[height<=?{max_height}]"
        try:
            user = {k: value for k, value in _user_options(options_file).items() if k not in NOT_THE_USERS}
        except SystemExit as error:
            reason = f"yt-dlp cannot read its options in {options_file}"
            raise LinkError(Problem(status="failed", reason=reason)) from error
        self._options = {
            **user,
            "format": "/".join(f"{kind}{small}{form}" for form in ("[protocol^=http]", "") for kind in ("bv*", "b"))
            + "/worstvideo*/worst",
            "quiet": True,
            "no_warnings": True,
            "noprogress": True,
            "logger": _Silence(),
            "noplaylist": True,
            "playlist_items": "1",
            "socket_timeout": stall_s,
            "retries": 0,
            "extractor_retries": 0,
            "fragment_retries": 2,
            "cachedir": user.get("cachedir"),
            "postprocessors": [],
            "overwrites": True,
            "concurrent_fragment_downloads": 1,
            "skip_unavailable_fragments": False,
        }
        self._kind = PoliteYoutubeDL
        self._beat = beat

    def find(self, url: str) -> SiteFile:
        """Finds the file of a site's video. Raises LinkError with what the site says."""
        with self._kind(self._options) as ydl:
            info = self._run(url, lambda: ydl.extract_info(url, download=False))
            while info and info.get("_type") in ("playlist", "multi_video"):
                info = next(iter(info.get("entries") or ()), None)
            if not info:
                raise LinkError(Problem(status="unusable", reason="the page holds no video"))
            if info.get("is_live") or info.get("live_status") == "is_upcoming":
                raise LinkError(Problem(status="failed", reason="it is live, or still to come"))
            headers = {str(name): str(value) for name, value in (info.get("http_headers") or {}).items()}
            cookies = ydl.cookiejar.get_cookie_header(info["url"]) if info.get("url") else None
            if cookies:
                headers["Cookie"] = cookies
            return SiteFile(
                url=str(info.get("url") or ""),
                headers=headers,
                is_direct=info.get("protocol") in DIRECT and bool(info.get("url")),
                info=info,
            )

    def fetch(self, url: str, file: SiteFile, path: Path, max_bytes: int) -> None:
        """Fetches a video that is no single file, whole. Raises LinkError."""

        def check(progress: dict[str, Any]) -> None:
            self._beat()
            if (progress.get("downloaded_bytes") or 0) > max_bytes:
                raise too_large(max_bytes)

        name = str(path).replace("%", "%%")
        own = {"outtmpl": {"default": name}, "progress_hooks": [check], "hls_prefer_native": True}
        with self._kind({**self._options, **own}) as ydl:
            ydl.is_page = False
            self._run(url, lambda: ydl.process_info(file.info))
        if not path.exists():
            raise LinkError(Problem(status="failed", reason="yt-dlp left no file", may_pass=True))

    def _run(self, url: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except LinkError:
            raise
        except Exception as error:  # by place: a thousand extractors raise what they like
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, LinkError):
                    raise cause from None
                if isinstance(cause, PrivateAddressError):
                    raise LinkError(Problem(status="blocked", reason=cause.strerror or str(cause))) from error
                details = getattr(cause, "exc_info", None)
                cause = cause.__cause__ or cause.__context__ or (details[1] if details else None)
            raise LinkError(problem_of_site(masked(str(error)), host_of(url)[0])) from error


_REQUEST_LINE: Final = (b"GET ", b"HEAD ", b"POST ", b"PUT ")
_before_redirect: Callable[[], None] | None = None
_num_sent = 0


@contextmanager
def _redirects(permit: Callable[[], None]) -> Iterator[None]:
    """Calls `permit` before every request of this process but the first: yt-dlp follows redirects unasked."""
    global _before_redirect, _num_sent
    _watch_requests()
    _before_redirect, _num_sent = permit, 0
    try:
        yield
    finally:
        _before_redirect = None


@cache
def _watch_requests() -> None:
    sys.addaudithook(_count_request)


def _count_request(event: str, arguments: tuple[Any, ...]) -> None:
    global _num_sent
    if event != "http.client.send" or _before_redirect is None:
        return
    if isinstance(arguments[1], bytes) and arguments[1].startswith(_REQUEST_LINE):
        _num_sent += 1
        if _num_sent > 1:
            _before_redirect()


class _Silence:
    """A logger of yt-dlp's that says nothing: its lines may hold cookies and signed addresses."""

    def debug(self, line: str) -> None:
        """Drops a line."""

    info = warning = error = debug
