"""A video at a client's address as a local file: for servers, where nothing is known about the client.

    with fetched("https://example.org/clip.mp4", FetchPolicy()) as path: ...

Only the schemes of the policy are opened, one address and no chain of them, and no more than its bytes and seconds are
taken. Local paths are refused unless the policy names the folder that they must lie in: a client of a server could
otherwise read its disk, or learn what is on it. A client without an address sends the file itself, as a `data:` URL.
Which hosts a server reaches is for its network to decide.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

import fsspec

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.numbers import check_numbers

CHUNK_BYTES: Final = 1 << 20
FOLDER_VARIABLE: Final = "PERCEPTS_VIDEO_FOLDER"
MAX_BYTES_VARIABLE: Final = "PERCEPTS_VIDEO_MAX_BYTES"
SHOWN_CHARACTERS: Final = 80
"""The number of characters of an address that a message shows: a `data:` URL holds a whole video."""


@dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """Limits on the addresses that may be opened, and on the bytes and seconds that a video may take."""

    schemes: tuple[str, ...] = ("https", "http", "s3", "data")
    max_bytes: int = 1 << 30
    max_seconds: float = 120.0
    folder: str | None = None
    """Local videos may be opened below this folder; None: none may."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_seconds <= 0:
            raise ConfigError("max_bytes and max_seconds of a video that is fetched must be positive")
        check_numbers(self)

    @classmethod
    def of_environment(cls) -> Self:
        """Reads the policy from `PERCEPTS_VIDEO_FOLDER` and `PERCEPTS_VIDEO_MAX_BYTES`. Raises ConfigError."""
        max_bytes = os.environ.get(MAX_BYTES_VARIABLE, str(cls.max_bytes))
        if not max_bytes.isdigit():
            raise ConfigError(f"{MAX_BYTES_VARIABLE} is {max_bytes!r}; give a number of bytes")
        return cls(folder=os.environ.get(FOLDER_VARIABLE) or None, max_bytes=int(max_bytes))


@contextmanager
def fetched(address: str, policy: FetchPolicy) -> Iterator[Path]:
    """Fetches the video into a local file, which is removed afterwards unless it lies in the policy's folder.

    Raises:
        SourceError: the policy forbids the address, or there is nothing that can be read, or too much, or too slowly.
    """
    scheme, separator, _ = address.partition(":")
    if not separator or scheme.lower() == "file" or ("://" not in address and scheme.lower() != "data"):
        yield _local(address, policy)
        return
    if scheme.lower() not in policy.schemes or ("::" in address and scheme.lower() != "data"):
        known = ", ".join(f"{name}:" for name in policy.schemes)
        raise SourceError(f"{_shown(address)} cannot be opened here: give a single address of one of {known}")
    with tempfile.NamedTemporaryFile(prefix="percepts-") as file:
        try:
            _copy(address, file, policy)
        # Every protocol has exceptions of its own (aiohttp's, botocore's): all say that nothing could be fetched.
        except Exception as error:
            if isinstance(error, SourceError):
                raise
            raise SourceError(f"{_shown(address)} cannot be fetched ({type(error).__name__})") from error
        yield Path(file.name)


def _copy(address: str, file: IO[bytes], policy: FetchPolicy) -> None:
    deadline = time.monotonic() + policy.max_seconds
    num_bytes = 0
    with fsspec.open(address, "rb", **_options(address)) as remote:
        while chunk := remote.read(CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > policy.max_bytes:
                raise SourceError(f"{_shown(address)} has more than the {policy.max_bytes} bytes that are allowed here")
            if time.monotonic() > deadline:
                raise SourceError(f"{_shown(address)} takes longer than the {policy.max_seconds:g} s allowed here")
            file.write(chunk)
    file.flush()


def _options(address: str) -> dict[str, object]:
    """Returns fsspec's options for one request that streams, without a request for the size and without a cache."""
    if address.lower().startswith("http"):
        return {"block_size": 0, "skip_instance_cache": True}
    return {"skip_instance_cache": True}


def _local(address: str, policy: FetchPolicy) -> Path:
    if policy.folder is None:
        raise SourceError(
            "local paths are refused here: give a URL, or send the video as a data: URL "
            f"(the operator may set {FOLDER_VARIABLE} to a folder that may be read)"
        )
    path = Path(address.removeprefix("file://")).resolve()
    if not path.is_relative_to(Path(policy.folder).resolve()) or not path.is_file():
        # One message for both, so that it does not reveal which files there are.
        raise SourceError(f"there is no video {_shown(address)} in the folder that may be read here")
    return path


def _shown(address: str) -> str:
    return repr(address if len(address) <= SHOWN_CHARACTERS else f"{address[:SHOWN_CHARACTERS]}...")
