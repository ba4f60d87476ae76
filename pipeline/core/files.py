"""Files on any fsspec file system, written atomically: a file is complete or absent.

A `uri` is a local path or any URL that fsspec knows (`s3://bucket/key`, `memory://x`). It is a URL only if it begins
with a scheme; otherwise it is a path, and every character of it is literal. Nothing here reads a pattern: fsspec's
plural calls (`rm`, `cat` of a list, `mv`, `glob`) expand `*`, `?` and `[`, and none of them is used.

Where a server refuses or does not answer (credentials, a region, an endpoint), every function raises SourceError with
its words: each file system has exceptions of its own, which are caught by place.

A file appears under its name only once it is complete: on a local disk by a temporary name and a rename, on an object
store by one PUT, which is atomic there.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import unquote

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from pipeline.core.error_words import error_in_words
from pipeline.core.errors import PerceptsError, SourceError
from pipeline.core.secrets import public

TEMPORARY_MARK = ".tmp-"
"""Part of the names of unfinished writes, which `list_files` leaves out."""

CHUNK_BYTES = 1 << 20
REQUESTS_AT_A_TIME: Final = 32
"""Requests to an object store in flight where many small files are read or removed."""
BUCKETED: Final = ("s3", "s3a", "gs", "gcs", "abfs", "az")
"""The protocols whose addresses begin with a bucket."""
ATTEMPTS_VARIABLE: Final = "AWS_MAX_ATTEMPTS"
"""The environment variable by which AWS's own library, and MLflow with it, counts the attempts at a request."""
ATTEMPTS: Final = "8"
"""Attempts at a request to S3 while a run goes on: pauses that double make it a minute, on average."""
MAX_NAME_BYTES: Final = 255
"""The longest name of a file on the usual local file systems."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::.*://)", re.DOTALL)
_CHAIN = re.compile(r"::.*://", re.DOTALL)


def is_url(uri: str) -> bool:
    """Returns whether `uri` begins with the scheme of a URL, `file:` included; otherwise it is a local path."""
    return _URL.match(uri) is not None or uri.startswith("file:/")


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns the file system behind `uri`, and the path in it.

    A path may begin with `~/`. A `file:` URL is decoded (`%20`) unless a file has its literal name.

    Raises:
        SourceError: fsspec does not know the protocol, its package is not installed, or it finds no credentials; a path
            holds a NUL.
    """
    if not is_url(uri) or uri.startswith("file:"):
        return LocalFileSystem(), _local_path(uri)
    try:
        if _CHAIN.search(uri):
            fs, path = fsspec.core.url_to_fs(uri)
            return fs, str(path)
        # `url_to_fs` takes any `::` for a chain of file systems; names may hold it.
        protocol = uri.partition("://")[0]
        kind = fsspec.get_filesystem_class(protocol)
        path = str(kind._strip_protocol(uri))
        if protocol in BUCKETED and not path.strip("/"):
            raise ValueError("it names no bucket")
        return fsspec.filesystem(protocol, **kind._get_kwargs_from_urls(uri)), path
    except (ValueError, ImportError) as error:
        raise SourceError(f"cannot reach {uri!r}: {error}; give a local path or a URL that fsspec knows") from error
    except Exception as error:
        raise _unreachable(uri, error) from error


@contextmanager
def reaching(uri: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns what a remote file system raises into one line, unless it says that there is no such file.

    but: exceptions of whatever reads the file, which stay as they are.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PerceptsError):
        raise
    except Exception as error:
        if isinstance(error, but) or is_local(uri):
            raise
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: BaseException) -> SourceError:
    return SourceError(
        f"cannot reach {uri!r}: {error_in_words(error)}; check the address, the region and the credentials"
    )


def _local_path(uri: str) -> str:
    path = uri
    if uri.startswith("file:"):
        path = re.sub(r"^file:(//(localhost(?=/))?)?", "", uri)
        if "%" in path and not os.path.lexists(path):
            path = unquote(path, errors="surrogateescape")
    elif uri == "~" or (uri.startswith("~/") and not os.path.lexists(uri)):
        path = os.path.expanduser(uri)
    if "\0" in path:
        raise SourceError(f"{uri!r} holds a NUL character; no file can have such a name")
    return os.path.abspath(path)


def wait_for_buckets() -> None:
    """Tries requests to S3 for about a minute from now on, in this process and in those that it starts.

    For a run whose store has answered: what cannot be reached from the start is said within seconds. AWS_MAX_ATTEMPTS
    has its say where it is set.
    """
    os.environ.setdefault(ATTEMPTS_VARIABLE, ATTEMPTS)
    if (s3fs := sys.modules.get("s3fs")) is not None:  # its connections have read the variable already
        s3fs.S3FileSystem.clear_instance_cache()


def is_local(uri: str) -> bool:
    """Returns whether `uri` is on this machine's own file system."""
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def join(uri: str, *names: str) -> str:
    """Joins `uri` and `names` with one slash between each."""
    return "/".join([uri.rstrip("/") or "/", *(name.strip("/") for name in names)])


def absolute(uri: str) -> str:
    """Makes a local path absolute, so that it is valid in any working directory; returns a URL unchanged."""
    return uri if is_url(uri) and not uri.startswith("file:") else _local_path(uri)


def exists(uri: str) -> bool:
    """Returns whether there is a file or a directory at `uri`."""
    fs, path = filesystem(uri)
    fs.invalidate_cache(path)  # another process may have written it since this one listed the directory
    with reaching(uri):
        return bool(fs.exists(path))


def size_bytes(uri: str) -> int:
    """Returns the size of the file in bytes. Raises FileNotFoundError."""
    fs, path = filesystem(uri)
    fs.invalidate_cache(path)
    with reaching(uri):
        return int(fs.size(path))


def read_bytes(uri: str) -> bytes:
    """Reads the whole file. Raises FileNotFoundError."""
    fs, path = filesystem(uri)
    with reaching(uri):
        return cast(bytes, fs.cat_file(path))


def read_json(uri: str) -> Any:
    """Reads and parses a JSON file. Raises FileNotFoundError, json.JSONDecodeError."""
    return json.loads(read_bytes(uri))


def read_many(uris: Sequence[str]) -> dict[str, bytes]:
    """Reads the existing files among `uris` into memory, from an object store many at a time.

    All `uris` lie on one file system. A missing file is left out of the result.
    """
    if not uris:
        return {}
    if is_local(uris[0]):
        contents = [_read_if_there(uri) for uri in uris]
    else:
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
            contents = list(threads.map(_read_if_there, uris))
    return {uri: data for uri, data in zip(uris, contents, strict=True) if data is not None}


def _read_if_there(uri: str) -> bytes | None:
    try:
        return read_bytes(uri)
    except FileNotFoundError:
        return None


def list_files(uri: str) -> list[str]:
    """Returns the sorted names, relative to `uri`, of all finished files below it; empty if there is no directory."""
    fs, path = filesystem(uri)
    with reaching(uri):
        if not fs.exists(path):
            return []
        fs.invalidate_cache(path)
        names = [_relative(str(name), path) for name in fs.find(path)]
    return sorted(name for name in names if TEMPORARY_MARK not in name)


def list_directories(uri: str) -> list[str]:
    """Returns the sorted names of the directories right below `uri`; empty if it is no directory. Makes one listing."""
    fs, path = filesystem(uri)
    fs.invalidate_cache(path)
    try:
        with reaching(uri):
            entries = fs.ls(path, detail=True)
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError) and error.errno != errno.ENAMETOOLONG:
            raise
        return []
    names = [_relative(str(entry["name"]), path) for entry in entries if entry["type"] == "directory"]
    return sorted(name for name in names if name)


def _relative(name: str, directory: str) -> str:
    # Not by os.path.relpath, which takes a part of an object's name such as `..` for a step.
    return name.rstrip("/")[len(directory.rstrip("/")) :].removeprefix("/")


@dataclass(frozen=True)
class FileState:
    """The size and time of a file, from a listing."""

    num_bytes: int
    modified_s: float
    """Seconds since the epoch."""


def list_states(uri: str) -> dict[str, FileState]:
    """Returns relative name -> state of every file below `uri`, sorted, with unfinished writes. Makes one listing."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    with reaching(uri):
        infos = fs.find(path, detail=True)
    return {_relative(str(name), path): _state(infos[name]) for name in sorted(infos)}


def _state(info: dict[str, Any]) -> FileState:
    # The name of the time of modification differs between the back ends of fsspec.
    modified = info.get("mtime", info.get("LastModified", info.get("created", info.get("updated", 0.0))))
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    return FileState(int(info["size"] or 0), seconds)


def remove(uri: str) -> None:
    """Removes a file or a whole directory, if there is one; nothing else, whatever characters `uri` holds."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)
        return
    fs.invalidate_cache(path)
    with reaching(uri):
        is_directory = fs.isdir(path)
        names = [str(name) for name in fs.find(path)] if is_directory else []
        if fs.isfile(path):
            names.append(path)
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
            for _ in threads.map(fs.rm_file, dict.fromkeys(names)):
                pass
        if is_directory and fs.exists(path):
            _remove_empty(fs, path)
    fs.invalidate_cache(path)


def _remove_empty(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Removes directories without files, deepest first, on a remote file system that keeps such."""
    directories = [
        str(name) for name, info in fs.find(path, withdirs=True, detail=True).items() if info["type"] != "file"
    ]
    for name in sorted({*directories, path}, key=len, reverse=True):
        fs.rmdir(name)


@contextmanager
def open_atomic(uri: str, *, is_private: bool = False) -> Iterator[BinaryIO]:
    """Opens a binary file to write, which appears under its name only if the block ends without an exception.

    is_private: only this user may read a local file, from its first byte on.
    """
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryFile() as buffer:
            yield cast(BinaryIO, buffer)
            buffer.seek(0)
            with reaching(uri), fs.open(path, "wb") as remote:
                try:
                    shutil.copyfileobj(buffer, remote, CHUNK_BYTES)
                except BaseException:
                    if isinstance(remote, AbstractBufferedFile):
                        remote.discard()
                        remote.closed = True  # it would put what has come so far under the name
                    raise
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    mark = f"{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}"
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, os.fsdecode(os.fsencode(name)[: MAX_NAME_BYTES - len(mark)]) + mark)
    try:
        with open(temporary, "wb", opener=_open_private if is_private else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class HashingFile(io.RawIOBase):
    """A file that computes the digest and the number of the bytes written to it, so that none has to be read back."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]  # RawIOBase says object, and is given bytes
        self.digest.update(view)
        self.num_bytes += view.nbytes
        self._file.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.num_bytes


def write_bytes(uri: str, data: bytes, *, is_private: bool = False) -> None:
    """Writes the whole file at once, atomically; see `open_atomic`."""
    with open_atomic(uri, is_private=is_private) as file:
        file.write(data)


def write_json(uri: str, value: Any) -> None:
    """Writes a JSON file atomically. Equal values give equal bytes."""
    write_bytes(uri, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def sha256_bytes(data: bytes) -> str:
    """Returns the SHA-256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(uri: str, advance: Callable[[int], object] | None = None) -> str:
    """Returns the SHA-256 of the file's bytes as 64 hex digits.

    Args:
        advance: called with the number of bytes of each chunk that has been read.
    """
    digest = hashlib.sha256()
    fs, path = filesystem(uri)
    with reaching(uri), fs.open(path, "rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            if advance is not None:
                advance(len(piece))
    return digest.hexdigest()


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """Yields a local path of the file: its own if it is local, otherwise that of a temporary copy."""
    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="percepts-") as directory:
        # The end of the name: readers go by the suffix.
        name = os.fsdecode(os.path.basename(public(path)).encode("utf-8", "surrogateescape")[-MAX_NAME_BYTES:])
        target = Path(directory) / (name or "file")
        with reaching(uri):
            fs.get_file(path, str(target))
        yield target
