"""Files of web servers, fetched whole and resumed where they broke off; `range_file` reads them in pieces.

Every request is one: redirects are followed here, one permit each, and an answer that is no success ends the attempt
with what it says (`stages.downloading.problems`). What a server packs unasked (gzip) is unpacked.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    LocationValueError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
    TimeoutError,
)

from stages.downloading.address_guard import PrivateAddressError
from stages.downloading.problems import LinkError, Problem, problem_of_status
from stages.video.lists.hosts import host_of

MAX_REDIRECTS: Final = 10
PIECE_BYTES: Final = 1 << 16
SLOWEST_BYTES_PER_S: Final = 1000.0
"""A server that has sent less over `SLOW_S` of waiting holds a download up without end."""
SLOW_S: Final = 60.0
LONGEST_S: Final = 1e9
"""Seconds of a pause that stand for all longer ones."""
AGENT: Final = "percepts (+https://pypi.org/project/percepts)"
FOR_ONE_HOST: Final = ("cookie", "authorization")
"""Headers that no redirect takes to another host."""

NO_ADDRESS: Final = "it leads to an address that is not of the web"
CONNECTION_WORDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (NameResolutionError, "has no address: there is no such host, or the name server does not answer"),
    (NewConnectionError, "takes no connection"),
    (TimeoutError, "sends nothing for longer than --stall-s"),
    (SSLError, "has no certificate that can be trusted, or speaks no TLS"),
    (DecodeError, "packs its answer in another way than it says"),
)
"""Words for the errors of a connection; the first kind that fits counts."""

SUCCESS, PARTIAL, NOT_SATISFIABLE = 200, 206, 416


@dataclass(frozen=True)
class HttpAnswer:
    """An answer of a server, whose body is still to come."""

    url: str
    """The address behind all redirects."""
    raw: Any

    @property
    def host(self) -> str:
        """The host that answers."""
        return host_of(self.url)[0]

    @property
    def is_part(self) -> bool:
        """True if the body is that of a part of the file, as requested."""
        return bool(self.raw.status == PARTIAL)

    @property
    def has_no_part(self) -> bool:
        """True if the file has not the part that was requested."""
        return bool(self.raw.status == NOT_SATISFIABLE)

    @property
    def is_packed(self) -> bool:
        """True if the server packs the body, so that its bytes are not those of the file."""
        return str(self.raw.headers.get("Content-Encoding", "")).strip().lower() not in ("", "identity")

    @property
    def total_bytes(self) -> int | None:
        """The size of the whole file, where the server says it."""
        if self.is_packed:
            return None
        if self.raw.status == SUCCESS:
            return _number(self.raw.headers.get("Content-Length", ""))
        return _number(self.raw.headers.get("Content-Range", "").rpartition("/")[2])

    @property
    def first_byte(self) -> int | None:
        """The number of the first byte of the file that the body has, where the server says it."""
        if self.raw.status == SUCCESS:
            return 0
        return _number(self.raw.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("-")[0])

    @property
    def validator(self) -> str:
        """The mark of the file's state: a strong etag or a date; empty where there is neither."""
        etag = str(self.raw.headers.get("ETag", ""))
        mark = etag if etag and not etag.startswith("W/") else str(self.raw.headers.get("Last-Modified", ""))
        return "" if self.is_packed else mark

    def close(self) -> None:
        """Closes the connection."""
        self.raw.close()


def _number(text: str) -> int | None:
    """Returns a number in a header; None where it is none, or one that no file has."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


@dataclass
class HttpClient:
    """Makes requests for one file, each after a permit."""

    permit: Callable[[str], None]
    """A function that waits for a host's next time slot. Raises LinkError where there is none."""
    beat: Callable[[], None]
    """Called with every sign of life."""
    stall_s: float
    headers: Mapping[str, str] = field(default_factory=dict)
    num_bytes: int = 0
    """Bytes that have come."""
    _first_host: str = ""
    _waited_s: float = 0.0
    """Seconds that bytes were waited for, since the rate was looked at."""
    _waited_bytes: int = 0

    def get(self, url: str, *, start: int | None = None, validator: str = "") -> HttpAnswer:
        """Requests a file, from a byte on.

        Raises:
            LinkError: the server is not there, or answers with anything but success.
        """
        for _ in range(MAX_REDIRECTS):
            host = host_of(url)[0]
            if not host or urlsplit(url).scheme not in ("http", "https"):
                raise LinkError(Problem(status="unusable", reason=NO_ADDRESS))
            self.permit(host)
            answer = self._request(url, host, start, validator)
            if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("Location"):
                answer.close()
                url = _joined(url, answer.headers["Location"])
                continue
            if answer.status in (SUCCESS, PARTIAL, NOT_SATISFIABLE):
                return HttpAnswer(url, answer)
            answer.close()
            raise LinkError(problem_of_status(answer.status, host, _retry_after_s(answer.headers)))
        raise LinkError(Problem(status="failed", reason=f"more than {MAX_REDIRECTS} redirects", host=host))

    def _request(self, url: str, host: str, start: int | None, validator: str) -> Any:
        self._first_host = self._first_host or host
        headers = {"Accept-Encoding": "identity", "User-Agent": AGENT, **self.headers, **_authorization(url)}
        if host != self._first_host:
            headers = {name: value for name, value in headers.items() if name.lower() not in FOR_ONE_HOST}
        if start is not None:
            headers["Range"] = f"bytes={start}-"
        if validator and start:
            headers["If-Range"] = validator
        try:
            answer = _pool(url, self.stall_s).request(
                "GET", url, headers=headers, preload_content=False, redirect=False, retries=False
            )
        except (HTTPError, OSError, ValueError) as error:
            raise LinkError(problem_of_connection(error, host)) from error
        self.beat()
        return answer

    def read(self, answer: HttpAnswer, num_bytes: int) -> bytes:
        """Returns the next bytes of a body, at most so many; empty at its end.

        Raises:
            LinkError: it breaks off, or is slower than `SLOWEST_BYTES_PER_S`.
        """
        began = time.monotonic()
        try:
            data: bytes = answer.raw.read1(num_bytes, decode_content=True)
        except (HTTPError, OSError, ValueError) as error:
            raise LinkError(problem_of_connection(error, answer.host)) from error
        self.beat()
        self.num_bytes += len(data)
        self._waited_s += time.monotonic() - began
        self._waited_bytes += len(data)
        if self._waited_s > SLOW_S:
            if self._waited_bytes < SLOWEST_BYTES_PER_S * self._waited_s:
                reason = f"{answer.host} sends less than {SLOWEST_BYTES_PER_S / 1000:g} kB/s"
                raise LinkError(Problem(status="failed", reason=reason, host=answer.host, may_pass=True))
            self._waited_s, self._waited_bytes = 0.0, 0
        return data


def _joined(url: str, location: str) -> str:
    """Returns the address that a redirect leads to; empty where it is none."""
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode()  # headers are read as Latin-1, and servers write UTF-8
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def _authorization(url: str) -> dict[str, str]:
    """Returns the header with the user and password that an address holds."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": f"Basic {b64encode(user.encode()).decode()}"}


def _pool(url: str, stall_s: float) -> Any:
    timeout = urllib3.Timeout(connect=stall_s, read=stall_s)
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, timeout=timeout)
    return urllib3.PoolManager(timeout=timeout)


def problem_of_connection(error: BaseException, host: str) -> Problem:
    """Returns what an error of a connection means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PrivateAddressError):
            return Problem(status="blocked", reason=cause.strerror or str(cause))
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, LocationValueError):
        return Problem(status="unusable", reason=NO_ADDRESS)
    others = f"breaks off or does not answer ({type(error).__name__.removesuffix('Error')})"
    words = next((words for kind, words in CONNECTION_WORDS if isinstance(error, kind)), others)
    return Problem(status="failed", reason=f"{host} {words}", host=host, may_pass=True)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Returns the pause that a server requests, in seconds; it is a number or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), LONGEST_S)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def too_large(max_bytes: int) -> LinkError:
    """Returns the error for a file above the largest size, which another run may have raised."""
    reason = f"has more than {max_bytes} bytes, a download's share of --max-disk-gb or --limits.max-bytes"
    return LinkError(Problem(status="failed", reason=reason))


def fetch_file(client: HttpClient, url: str, path: Path, max_bytes: int) -> None:
    """Fetches a file to `path`. Bytes that are there from an attempt before are kept where the file is still the same.

    Raises:
        LinkError: it cannot be had, broke off, or is larger than `max_bytes`.
    """
    mark = path.with_suffix(".validator")
    validator = mark.read_text() if mark.exists() else ""
    start = path.stat().st_size if path.exists() and validator else 0
    answer = client.get(url, start=start or None, validator=validator)
    total, first = answer.total_bytes, answer.first_byte
    try:
        if answer.has_no_part:
            if start and total == start:
                return
            mark.unlink(missing_ok=True)
            reason = "the file has changed meanwhile"
            raise LinkError(Problem(status="failed", reason=reason, host=answer.host, may_pass=True))
        if first not in (0, start) or (start and answer.is_part and answer.is_packed):
            mark.unlink(missing_ok=True)
            reason = "the server sends other bytes"
            raise LinkError(Problem(status="failed", reason=reason, host=answer.host, may_pass=True))
        if total is not None and total > max_bytes:
            raise too_large(max_bytes)
        path.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(answer.validator)
        num_bytes = _append(client, answer, path, first, max_bytes)
    finally:
        answer.close()
    if total is not None and num_bytes < total:
        reason = f"broke off after {num_bytes} of {total} bytes"
        raise LinkError(Problem(status="failed", reason=reason, host=answer.host, may_pass=True))


def _append(client: HttpClient, answer: HttpAnswer, path: Path, first: int, max_bytes: int) -> int:
    """Writes a body behind the first bytes of a file; returns the size of the file."""
    num_bytes = first
    with open(path, "r+b" if first else "wb") as file:
        file.truncate(first)
        file.seek(first)
        while data := client.read(answer, PIECE_BYTES):
            num_bytes += len(data)
            if num_bytes > max_bytes:
                raise too_large(max_bytes)
            file.write(data)
    return num_bytes
