"""A video at a client's address as a local file: for servers, where nothing is known about the client.

    with fetched("https://example.org/clip.mp4", FetchPolicy()) as path: ...

Only the schemes of the policy are opened, one address and no chain of them, and no more than its bytes and seconds are
taken. Local paths are refused unless the policy names the folder that they must lie in: a client of a server could
otherwise read its disk, or learn what is on it. A client without an address sends the file itself, as a `data:` URL.
Hosts of this machine and of private networks are refused (`public_http`) unless PERCEPTS_ALLOW_PRIVATE is 1.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self
from urllib.parse import unquote_to_bytes

import fsspec

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.numbers import check_numbers
from stages.serving.public_http import read_public

CHUNK_BYTES: Final = 1 << 20
CHUNK_CHARACTERS: Final = 1 << 20
"""Characters of a `data:` URL that are decoded at a time; a multiple of 4, in which base64 counts."""
MAX_FETCHES: Final = 8
"""The number of videos that a server fetches at a time."""
FOLDER_VARIABLE: Final = "PERCEPTS_VIDEO_FOLDER"
MAX_BYTES_VARIABLE: Final = "PERCEPTS_VIDEO_MAX_BYTES"
PRIVATE_VARIABLE: Final = "PERCEPTS_ALLOW_PRIVATE"
SHOWN_CHARACTERS: Final = 80
"""The number of characters of an address that a message shows: a `data:` URL holds a whole video."""
_SLOTS: Final = threading.BoundedSemaphore(MAX_FETCHES)


@dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """Limits on the addresses that may be opened, and on the bytes and seconds that a video may take."""

    schemes: tuple[str, ...] = ("https", "http", "s3", "data")
    max_bytes: int = 1 << 30
    max_seconds: float = 120.0
    max_stall_s: float = 10.0
    """Seconds in which nothing comes, after which a fetch is given up."""
    max_waiting_s: float = 10.0
    """Seconds that a video may wait for its turn to be fetched."""
    allow_private: bool = False
    """Hosts of this machine and of private networks may be reached."""
    folder: str | None = None
    """Local videos may be opened below this folder; None: none may."""

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_seconds, self.max_stall_s, self.max_waiting_s) <= 0:
            raise ConfigError("max_bytes and the seconds of a video that is fetched must be positive")
        check_numbers(self)

    @classmethod
    def of_environment(cls) -> Self:
        """Reads the policy from the variables PERCEPTS_VIDEO_FOLDER, PERCEPTS_VIDEO_MAX_BYTES, PERCEPTS_ALLOW_PRIVATE.

        Raises:
            ConfigError: one of them has no value that it may have.
        """
        max_bytes = os.environ.get(MAX_BYTES_VARIABLE, str(cls.max_bytes))
        if not max_bytes.isdigit():
            raise ConfigError(f"{MAX_BYTES_VARIABLE} is {max_bytes!r}; give a number of bytes")
        return cls(
            folder=os.environ.get(FOLDER_VARIABLE) or None,
            max_bytes=int(max_bytes),
            allow_private=os.environ.get(PRIVATE_VARIABLE) == "1",
        )


@contextmanager
def fetched(address: str, policy: FetchPolicy) -> Iterator[Path]:
    """Fetches the video into a local file, which is removed afterwards unless it lies in the policy's folder.

    Raises:
        SourceError: the policy forbids the address, or there is nothing that can be read, or too much, or too slowly;
          or as many others as may be are being fetched, and none of them ends in time.
    """
    if "\0" in address:
        raise SourceError(f"{_shown(address)} holds a NUL character; no video has such an address")
    scheme, separator, _ = address[:SHOWN_CHARACTERS].partition(":")  # not of it all: a `data:` URL would be copied
    scheme = scheme.lower()
    if not separator or scheme == "file" or ("://" not in address and scheme != "data"):
        yield _local(address, policy)
        return
    if scheme not in policy.schemes or (scheme != "data" and _is_chain(address)):
        known = ", ".join(f"{name}:" for name in policy.schemes)
        raise SourceError(f"{_shown(address)} cannot be opened here: give a single address of one of {known}")
    with tempfile.NamedTemporaryFile(prefix="percepts-") as file:
        try:
            with nullcontext() if scheme == "data" else _slot(address, policy):
                _copy(address, scheme, file, policy)
        # Every protocol has exceptions of its own (botocore's, http.client's): all say that nothing could be fetched.
        except Exception as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{_shown(address)} cannot be fetched ({type(error).__name__})") from error
        yield Path(file.name)


@contextmanager
def _slot(address: str, policy: FetchPolicy) -> Iterator[None]:
    """Takes one of the places for fetches: servers that stall must not hold every thread that answers clients."""
    if not _SLOTS.acquire(timeout=policy.max_waiting_s):
        raise SourceError(f"{_shown(address)} was not fetched: {MAX_FETCHES} others are being fetched; try again later")
    try:
        yield
    finally:
        _SLOTS.release()


def _copy(address: str, scheme: str, file: IO[bytes], policy: FetchPolicy) -> None:
    deadline = time.monotonic() + policy.max_seconds
    num_bytes = 0
    for chunk in _chunks(address, scheme, policy):
        num_bytes += len(chunk)
        if num_bytes > policy.max_bytes:
            raise SourceError(f"{_shown(address)} has more than the {policy.max_bytes} bytes that are allowed here")
        if time.monotonic() > deadline:
            raise SourceError(f"{_shown(address)} takes longer than the {policy.max_seconds:g} s allowed here")
        file.write(chunk)
    file.flush()


def _chunks(address: str, scheme: str, policy: FetchPolicy) -> Iterator[bytes]:
    if scheme == "data":
        yield from _of_data_url(address)
    elif scheme == "s3":
        waiting = dict.fromkeys(("connect_timeout", "read_timeout"), policy.max_stall_s)
        with fsspec.open(address, "rb", skip_instance_cache=True, config_kwargs=waiting) as remote:
            while chunk := remote.read(CHUNK_BYTES):
                yield chunk
    else:
        try:
            yield from read_public(
                address,
                allow_private=policy.allow_private,
                max_seconds=policy.max_seconds,
                stall_s=min(policy.max_stall_s, policy.max_seconds),
            )
        except TimeoutError as error:
            raise SourceError(
                f"{_shown(address)} takes longer than the {policy.max_seconds:g} s allowed here, or gives nothing for "
                f"{policy.max_stall_s:g} s"
            ) from error
        except SourceError as error:
            advice = f" (the operator may set {PRIVATE_VARIABLE}=1)" if "private" in str(error) else ""
            raise SourceError(f"{_shown(address)} {error}{advice}") from error


def _of_data_url(address: str) -> Iterator[bytes]:
    """Yields the bytes of a `data:` URL, a part at a time: it may be hundreds of megabytes."""
    start = address.index(",") + 1
    is_base64 = address[:start].lower().endswith(";base64,")
    for first in range(start, len(address), CHUNK_CHARACTERS):
        part = address[first : first + CHUNK_CHARACTERS]
        if is_base64:
            yield base64.b64decode(part, validate=True)
        else:
            yield unquote_to_bytes(part)


def _is_chain(address: str) -> bool:
    """Returns whether fsspec would read the address as one inside another; an IPv6 host has colons, too."""
    return "::" in re.sub(r"^(https?://)(?:[^/@]*@)?\[[0-9a-f:.%]*\]", r"\1", address, flags=re.IGNORECASE)


def _local(address: str, policy: FetchPolicy) -> Path:
    if policy.folder is None:
        raise SourceError(
            "local paths are refused here: give a URL, or send the video as a data: URL "
            f"(the operator may set {FOLDER_VARIABLE} to a folder that may be read)"
        )
    try:
        path = Path(address.removeprefix("file://")).resolve()
        is_there = path.is_relative_to(Path(policy.folder).resolve()) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_there = False
    if not is_there:
        # One message for both, so that it does not reveal which files there are.
        raise SourceError(f"there is no video {_shown(address)} in the folder that may be read here")
    return path


def _shown(address: str) -> str:
    return repr(address if len(address) <= SHOWN_CHARACTERS else f"{address[:SHOWN_CHARACTERS]}...")
