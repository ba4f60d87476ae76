"""Fetching of videos from servers, which may refuse, break off, stall or never end.

Whatever goes wrong between a source and a whole local copy becomes an `UnreadableError` with the server's own words:
errors are caught by their place here, since every file system has exceptions of its own. What may pass (a network, a
server, rights) is tried again with growing pauses.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem

from pipeline.core.error_words import NO_FILE, error_in_words
from pipeline.core.secrets import public, real
from stages.video.ledger import NOT_READ

STALL_S: Final = 30.0
"""Seconds without a byte after which a fetch is given up."""

PAUSES_S: Final = (0.5, 2.0)
"""Seconds before the second and the third try."""

CHECK_S: Final = 0.2
"""Seconds between two looks at a fetch."""

MAX_PAUSE_S: Final = 30.0
"""The longest pause between two tries, whatever the `Retry-After` of a server."""

FINAL_ERRNOS: Final = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO)
)
"""Errors of a local file that stay until the listing shows another file."""

TEXT_BYTES: Final = 512


class UnreadableError(OSError):
    """A source that cannot be fetched. Stays inside the stages: callers get a rejected video, or a SourceError."""

    def __init__(self, reason: str, *, may_pass: bool, is_final: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(0, reason)
        self.may_pass = may_pass
        """True where another try may end otherwise."""
        self.is_final = is_final
        """True where the file itself is to blame, so that the next run need not try again."""
        self.retry_after_s = retry_after_s
        """Seconds that the server asks to wait."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unreadable, (self.strerror, self.may_pass, self.is_final, self.retry_after_s)


def _unreadable(reason: str, may_pass: bool, is_final: bool, retry_after_s: float) -> UnreadableError:
    return UnreadableError(reason, may_pass=may_pass, is_final=is_final, retry_after_s=retry_after_s)


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Returns the file system of a URL, and the path in it; servers may be silent for `STALL_S`, and take any time.

    Raises:
        Exception: the scheme is unknown, its package missing, credentials are broken, and whatever else fsspec raises.
    """
    uri = real(uri)
    if uri.startswith(("http://", "https://")):
        import aiohttp  # needed for these schemes alone, and slow to import

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
        # To url_to_fs the `::` of an IPv6 address would be the end of a link in a chain of file systems.
        return fsspec.filesystem("http", client_kwargs={"timeout": timeout}), uri
    fs, path = fsspec.core.url_to_fs(uri)
    return fs, str(path)


@contextmanager
def fetched(uri: str, *, max_bytes: int) -> Iterator[Path]:
    """Yields a local copy of a URL's file, or the file itself where the URL names a local one.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: it cannot be had, or has more than `max_bytes`.
    """
    with tempfile.TemporaryDirectory(prefix="percepts-", ignore_cleanup_errors=True) as directory:
        for pause_s in (*PAUSES_S, None):
            try:
                path = _try_once(uri, Path(directory), max_bytes)
                break
            except UnreadableError as error:
                if pause_s is None or not error.may_pass:
                    raise
                pause_s = min(max(pause_s, error.retry_after_s), MAX_PAUSE_S)
            time.sleep(pause_s)
        yield path


def check_file(path: str) -> None:
    """Checks that a local path is a file or folder.

    Raises:
        UnreadableError: it is a pipe, a socket or a device, which might never end.
        OSError: it is not there.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UnreadableError("it is a pipe, a socket or a device, and not a file", may_pass=False, is_final=True)


def unreadable_reason(error: OSError, uri: str) -> str:
    """Returns the reason of a video that could not be read; it begins with `NOT_READ` where the cause may pass."""
    is_url = "://" in uri and not os.path.lexists(uri)
    is_final = error.is_final if isinstance(error, UnreadableError) else not is_url and error.errno in FINAL_ERRNOS
    words = error_in_words(error) if is_url else error.strerror or error_in_words(error)
    return f"{'cannot be read: ' if is_final else NOT_READ}{words}"


def is_answer_in_words(uri: str, path: Path) -> bool:
    """Returns whether a web server sent nothing, or text (a page, an error in JSON), where a video was expected."""
    if not uri.startswith(("http://", "https://")):
        return False
    with open(path, "rb") as file:
        text = file.read(TEXT_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    return not text or text.startswith((b"<", b"{"))


def _try_once(uri: str, directory: Path, max_bytes: int) -> Path:
    try:
        fs, path = open_filesystem(uri)
    except Exception as error:  # by place: fsspec and its file systems raise what they like
        raise UnreadableError(error_in_words(error), may_pass=False) from error
    if isinstance(fs, LocalFileSystem):
        check_file(path)
        return Path(path)
    target = directory / (os.path.basename(public(path))[-100:] or "file")
    transfer = _Transfer(fs, path, target, max_bytes)
    transfer.run()
    return target


class _Transfer(Callback):  # type: ignore[misc]  # fsspec has no types
    """One transfer in a thread of its own, which is left alone when it stalls."""

    def __init__(self, fs: Any, path: str, target: Path, max_bytes: int) -> None:
        super().__init__()
        self._fs, self._path, self._target, self._max_bytes = fs, path, target, max_bytes
        self._num_bytes = 0
        self._last_byte_s = time.monotonic()
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Fetches the file. Raises UnreadableError, FileNotFoundError."""
        threading.Thread(target=self._fetch, name="fetch", daemon=True).start()
        while not self._ended.wait(CHECK_S):
            if time.monotonic() - self._last_byte_s > STALL_S:
                raise UnreadableError(f"no byte came for {STALL_S:g} s", may_pass=True)
        if self._error is None:
            if not self._target.is_file():
                raise UnreadableError("it is a folder, and not a file", may_pass=False)
            return
        if isinstance(self._error, UnreadableError):
            raise self._error
        reason = error_in_words(self._error)
        if reason == NO_FILE:
            raise FileNotFoundError(errno.ENOENT, reason, public(self._path)) from self._error
        may_pass = not isinstance(self._error, ImportError)
        raise UnreadableError(reason, may_pass=may_pass, retry_after_s=_retry_after_s(self._error)) from self._error

    def _fetch(self) -> None:
        try:
            self._fs.get_file(self._path, str(self._target), callback=self)
        except BaseException as error:  # noqa: BLE001  # by place; raised again in the thread that waits
            self._error = error
        finally:
            self._ended.set()

    def set_size(self, size: int | None) -> None:
        """Refuses a file that says that it is too large."""
        if (size or 0) > self._max_bytes:
            raise UnreadableError(
                f"it has {size} bytes, more than max_bytes = {self._max_bytes}", may_pass=False, is_final=True
            )

    def relative_update(self, inc: int = 1) -> None:
        """Counts bytes that have come."""
        self._last_byte_s = time.monotonic()
        self._num_bytes += inc
        if self._num_bytes > self._max_bytes:
            raise UnreadableError(f"sends more than max_bytes = {self._max_bytes} bytes", may_pass=False)

    def absolute_update(self, value: int) -> None:
        """Counts all bytes that have come so far."""
        self.relative_update(value - self._num_bytes)


def _retry_after_s(error: BaseException) -> float:
    """Returns the seconds in the `Retry-After` of a server's answer; 0 where there is none, or a date."""
    error = getattr(error, "__cause__", None) or error
    value = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    return float(value) if value.isdecimal() else 0.0
