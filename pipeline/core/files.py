"""Files on any fsspec store: whole or absent, never half.

A `uri` is a local path or any URL that fsspec knows (`s3://bucket/key`, `memory://x`). What is written here appears
under its name only once it is complete: on a local disk by a temporary name and a rename, on an object store by one
PUT, which is atomic there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.core.errors import SourceError

TEMPORARY_MARK = ".tmp-"
"""Names that hold this mark are unfinished writes: `list_files` leaves them out."""

CHUNK_BYTES = 1 << 20


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system behind `uri`, and the path in it.

    Raises:
        SourceError: fsspec does not know the protocol, or its package is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise SourceError(f"cannot reach {uri!r}: {error}; give a local path or a URL that fsspec knows") from error
    return fs, str(path)


def is_local(uri: str) -> bool:
    """Whether `uri` is on this machine's own file system."""
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def join(uri: str, *names: str) -> str:
    """`uri` with `names` below it, one slash between each."""
    return "/".join([uri.rstrip("/") or "/", *(name.strip("/") for name in names)])


def absolute(uri: str) -> str:
    """`uri` as every process sees it, whatever its working directory: local paths made absolute, URLs as they are."""
    if "://" in uri and not uri.startswith("file://"):
        return uri
    return filesystem(uri)[1]


def exists(uri: str) -> bool:
    """Whether a file or a directory is there."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def size_bytes(uri: str) -> int:
    """Bytes in the file."""
    fs, path = filesystem(uri)
    return int(fs.size(path))


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    fs, path = filesystem(uri)
    return cast(bytes, fs.cat_file(path))


def read_json(uri: str) -> Any:
    """The file as JSON. Raises FileNotFoundError, json.JSONDecodeError."""
    return json.loads(read_bytes(uri))


def read_many(uris: Sequence[str]) -> dict[str, bytes]:
    """The whole files at those of `uris` (all on one file system) where there is one; an object store is asked for
    many at once. Everything is held in memory."""
    if not uris:
        return {}
    fs = filesystem(uris[0])[0]
    paths = {str(fs._strip_protocol(uri)): uri for uri in uris}
    # `cat` would hand on whatever went wrong as if the file were absent with on_error="omit".
    found = fs.cat(list(paths), on_error="return")
    read = {}
    for path, data in found.items():
        if isinstance(data, bytes):
            read[paths[path]] = data
        elif not isinstance(data, FileNotFoundError):
            raise data
    return read


def list_files(uri: str) -> list[str]:
    """Names relative to `uri` of every finished file below it, sorted; empty where there is no such directory."""
    fs, path = filesystem(uri)
    if not fs.exists(path):
        return []
    fs.invalidate_cache(path)
    found = fs.find(path)
    return sorted(os.path.relpath(str(name), path) for name in found if TEMPORARY_MARK not in str(name))


@dataclass(frozen=True)
class FileState:
    """What a listing says of a file."""

    num_bytes: int
    modified_s: float
    """Seconds since the epoch."""


def list_states(uri: str) -> dict[str, FileState]:
    """Every file below `uri` by its relative name, sorted; unfinished writes too. One listing."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    found = fs.find(path, detail=True)
    return {os.path.relpath(str(name), path): _state(found[name]) for name in sorted(found)}


def _state(info: dict[str, Any]) -> FileState:
    # Every fsspec back end has its own word for the same thing.
    modified = info.get("mtime", info.get("LastModified", info.get("created", info.get("updated", 0.0))))
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    return FileState(int(info["size"] or 0), seconds)


def remove(uri: str) -> None:
    """Remove a file or a whole directory; nothing happens where there is none."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


@contextmanager
def open_atomic(uri: str) -> Iterator[BinaryIO]:
    """A binary file to write, that appears under its name when the block ends well, and not at all otherwise."""
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryFile() as buffer:
            yield cast(BinaryIO, buffer)
            buffer.seek(0)
            with fs.open(path, "wb") as remote:
                shutil.copyfileobj(buffer, remote, CHUNK_BYTES)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


class HashingFile(io.RawIOBase):
    """Passes bytes on to a file and keeps their digest and number, so that nothing has to be read back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self.digest.update(view)
        self.num_bytes += view.nbytes
        self._file.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.num_bytes


def write_bytes(uri: str, data: bytes) -> None:
    """Write the whole file at once, atomically."""
    with open_atomic(uri) as file:
        file.write(data)


def write_json(uri: str, value: Any) -> None:
    """Write JSON, atomically; equal values give equal bytes."""
    write_bytes(uri, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def sha256_bytes(data: bytes) -> str:
    """Hex digest, 64 digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(uri: str, advance: Callable[[int], object] | None = None) -> str:
    """Hex digest of the file's bytes, 64 digits, read in pieces; `advance` is told the bytes of each."""
    digest = hashlib.sha256()
    fs, path = filesystem(uri)
    with fs.open(path, "rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            if advance is not None:
                advance(len(piece))
    return digest.hexdigest()


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """The file as a local path: itself where it is local already, else a temporary copy of it."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="percepts-") as directory:
        target = Path(directory) / (os.path.basename(path) or "file")
        fs.get_file(path, str(target))
        yield target
