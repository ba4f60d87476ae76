"""Files of web servers: fetched whole and resumed where they broke off, or read in pieces where only some are needed.

Every request is one: redirects are followed here, one permit each, and an answer that is no success ends the attempt
with what it says (`stages.downloading.problems`). Bytes are taken as they are sent, never unpacked.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from stages.downloading.address_guard import PrivateAddressError
from stages.downloading.link_results import host_of
from stages.downloading.problems import LinkError, Problem, problem_of_status

MAX_REDIRECTS: Final = 10
PIECE_BYTES: Final = 1 << 16
SKIP_BYTES: Final = 1 << 19
"""A reader that goes on so few bytes further reads them; over more it leaps, by a new request."""
SLOWEST_BYTES_PER_S: Final = 1000.0
"""A server that has sent less over `SLOW_S` holds a download up without end."""
SLOW_S: Final = 60.0
AGENT: Final = "percepts (+https://pypi.org/project/percepts)"

SUCCESS, PARTIAL, NOT_SATISFIABLE = 200, 206, 416


@dataclass
class HttpClient:
    """Makes requests, each after a permit."""

    permit: Callable[[str], None]
    """A function that waits for a host's next time slot. Raises LinkError where there is none."""
    beat: Callable[[], None]
    """Called with every sign of life."""
    stall_s: float
    headers: Mapping[str, str] = field(default_factory=dict)
    num_bytes: int = 0
    """Bytes that have come."""

    def get(self, url: str, *, start: int | None = None, validator: str = "") -> tuple[Any, str]:
        """Requests a file, from a byte on; returns the answer, whose body is still to come, and its final URL.

        Raises:
            LinkError: the server is not there, or answers with anything but success.
        """
        for _ in range(MAX_REDIRECTS):
            host = host_of(url)[0]
            if urlsplit(url).scheme not in ("http", "https") or not host:
                raise LinkError(Problem(status="unusable", reason="it leads to an address that is not of the web"))
            self.permit(host)
            answer = self._request(url, host, start, validator)
            if answer.status in (301, 302, 303, 307, 308) and answer.headers.get("Location"):
                answer.close()
                url = urljoin(url, answer.headers["Location"])
                continue
            if answer.status in (SUCCESS, PARTIAL, NOT_SATISFIABLE):
                return answer, url
            answer.close()
            raise LinkError(problem_of_status(answer.status, host, _retry_after_s(answer.headers)))
        raise LinkError(Problem(status="failed", reason=f"more than {MAX_REDIRECTS} redirects", host=host))

    def _request(self, url: str, host: str, start: int | None, validator: str) -> Any:
        headers = {"Accept-Encoding": "identity", "User-Agent": AGENT, **self.headers}
        if start is not None:
            headers["Range"] = f"bytes={start}-"
        if validator and start:
            headers["If-Range"] = validator
        try:
            answer = _pool(url, self.stall_s).request(
                "GET", url, headers=headers, preload_content=False, redirect=False, decode_content=False, retries=False
            )
        except (HTTPError, OSError, ValueError) as error:
            raise LinkError(problem_of_connection(error, host)) from error
        self.beat()
        return answer

    def read(self, answer: Any, num_bytes: int, host: str) -> bytes:
        """Returns up to so many bytes of a body; empty at its end. Raises LinkError where it breaks off."""
        try:
            data: bytes = answer.read(num_bytes)
        except (HTTPError, OSError, ValueError) as error:
            raise LinkError(problem_of_connection(error, host)) from error
        self.beat()
        self.num_bytes += len(data)
        return data


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
    words = type(error).__name__.removesuffix("Error")
    return Problem(status="failed", reason=f"{host} breaks off or does not answer ({words})", host=host, may_pass=True)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Returns the pause that a server requests, in seconds; it is a number or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _total_bytes(answer: Any) -> int | None:
    """Returns the size of the whole file, where the server says it."""
    text = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if answer.status == SUCCESS:
        text = answer.headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _begins_at(answer: Any) -> int:
    """Returns the first byte that an answer has."""
    if answer.status == SUCCESS:
        return 0
    first = answer.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("-")[0]
    return int(first) if first.isdigit() else -1


def too_large(max_bytes: int) -> LinkError:
    """Returns the error for a file above the largest size."""
    reason = f"has more than {max_bytes} bytes, a download's share of --max-disk-gb or --limits.max-bytes"
    return LinkError(Problem(status="unusable", reason=reason))


def fetch_file(client: HttpClient, url: str, path: Path, max_bytes: int) -> None:
    """Fetches a file to `path`. Bytes that are there from an attempt before are kept where the file is still the same.

    Raises:
        LinkError: it cannot be had, broke off, or is larger than `max_bytes`.
    """
    mark = path.with_suffix(".validator")
    validator = mark.read_text() if mark.exists() else ""
    start = path.stat().st_size if path.exists() and validator else 0
    answer, url = client.get(url, start=start or None, validator=validator)
    host = host_of(url)[0]
    total = _total_bytes(answer)
    try:
        if answer.status == NOT_SATISFIABLE:
            if start and total == start:
                return
            mark.unlink(missing_ok=True)
            raise LinkError(Problem(status="failed", reason="the file has changed meanwhile", host=host, may_pass=True))
        first = _begins_at(answer)
        if first not in (0, start):
            mark.unlink(missing_ok=True)
            raise LinkError(Problem(status="failed", reason="the server sends other bytes", host=host, may_pass=True))
        if total is not None and total > max_bytes:
            raise too_large(max_bytes)
        mark.write_text(_validator(answer))
        num_bytes = _append(client, answer, host, path, first, max_bytes)
    finally:
        answer.close()
    if total is not None and num_bytes < total:
        reason = f"broke off after {num_bytes} of {total} bytes"
        raise LinkError(Problem(status="failed", reason=reason, host=host, may_pass=True))


def _validator(answer: Any) -> str:
    """Returns the mark of a file's state: a strong etag or a date; empty where there is neither."""
    etag = str(answer.headers.get("ETag", ""))
    return etag if etag and not etag.startswith("W/") else str(answer.headers.get("Last-Modified", ""))


def _append(client: HttpClient, answer: Any, host: str, path: Path, first: int, max_bytes: int) -> int:
    """Writes a body behind the first bytes of a file; returns the size of the file."""
    num_bytes, began, since = first, time.monotonic(), 0
    with open(path, "r+b" if first else "wb") as file:
        file.truncate(first)
        file.seek(first)
        while data := client.read(answer, PIECE_BYTES, host):
            num_bytes += len(data)
            since += len(data)
            if num_bytes > max_bytes:
                raise too_large(max_bytes)
            file.write(data)
            if (seconds := time.monotonic() - began) > SLOW_S:
                if since < SLOWEST_BYTES_PER_S * seconds:
                    reason = f"{host} sends less than {SLOWEST_BYTES_PER_S / 1000:g} kB/s"
                    raise LinkError(Problem(status="failed", reason=reason, host=host, may_pass=True))
                began, since = time.monotonic(), 0
    return num_bytes


class RangeFile(io.RawIOBase):
    """A file of a server, read in pieces: bytes that are leapt over are not fetched.

    Raises LinkError where the server breaks off, stalls, or changes the file.
    """

    name = "a file of a server"

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client = client
        answer, self.url = client.get(url, start=0)
        self._host = host_of(self.url)[0]
        self.is_ranged = answer.status == PARTIAL and _begins_at(answer) == 0 and _total_bytes(answer) is not None
        self.size = _total_bytes(answer) or 0
        self._answer: Any = answer
        self._validator = _validator(answer)
        self._answer_at = 0
        self._at = 0
        self._is_broken = False
        """FFmpeg goes on reading after an error, and PyAV would print the next one."""
        self.head = client.read(answer, 512, self._host)
        """The first bytes."""
        self._ahead = self.head

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Returns up to so many bytes from here on; empty at the end, and after an error, which is raised once."""
        if self._is_broken:
            return b""
        try:
            return self._read(size)
        except LinkError:
            self._is_broken = True
            raise

    def _read(self, size: int) -> bytes:
        size = self.size - self._at if size < 0 else min(size, self.size - self._at)
        if size <= 0:
            return b""
        self._go_to(self._at)
        while not self._ahead:
            self._ahead = self._client.read(self._answer, PIECE_BYTES, self._host)
            if not self._ahead:
                reason = f"broke off after {self._answer_at} of {self.size} bytes"
                raise LinkError(Problem(status="failed", reason=reason, host=self._host, may_pass=True))
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        self._answer_at += len(data)
        self._at += len(data)
        return data

    def _go_to(self, position: int) -> None:
        """Brings the answer to a position: by reading on, or by another request."""
        gap = position - self._answer_at
        if 0 <= gap <= max(SKIP_BYTES, len(self._ahead)):
            while gap > 0:
                piece = self._ahead[:gap] or self._client.read(self._answer, min(gap, PIECE_BYTES), self._host)
                if not piece:
                    break
                self._ahead = self._ahead[len(piece) :]
                self._answer_at += len(piece)
                gap -= len(piece)
            if not gap:
                return
        self._answer.close()
        answer, _ = self._client.get(self.url, start=position, validator=self._validator)
        self._answer, self._answer_at, self._ahead = answer, position, b""
        if answer.status != PARTIAL or _begins_at(answer) != position:
            reason = "the server sends other bytes than it was requested"
            raise LinkError(Problem(status="failed", reason=reason, host=self._host, may_pass=True))
