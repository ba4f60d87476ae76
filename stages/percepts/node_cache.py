"""Files of remote stores on this node's disk: filled once, shared by all its processes, bounded, checked by digest.

    cache = NodeCache.of_environment()
    entry = cache.fetch(RemoteFile("s3://bucket/percepts/0123.parquet", num_bytes=..., sha256=...))
    entry.path      # to be mapped; it stays as long as `entry` is alive

The kernel's file locks coordinate the processes, and a process that is killed leaves none behind.

| file | lock | holder |
|---|---|---|
| `<name>` | shared | every process that maps it: what is locked is not evicted |
| `<name>.partial` | exclusive | the one that fills it, the others wait; unlocked, it is the leftover of a killed one |
| `.admission` | exclusive | the one that counts bytes and makes room |

`<name>.checked` says which state of `<name>` (size, times of change) had the right digest since this machine started,
so that a file is hashed once a start, and again whenever something has written to it; no other user may write to
either. Its own time of change is when the file was last opened.
"""

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from pipeline.core.errors import ConfigError, CorruptArtifact, StoreError
from pipeline.core.files import CHUNK_BYTES, absolute, filesystem, is_url, reaching, sha256_bytes
from pipeline.core.own_directory import check_own
from stages.percepts.file_digests import STAMP, has_digest, write_stamp

DIRECTORY_VARIABLE: Final = "PERCEPTS_CACHE"
GIGABYTES_VARIABLE: Final = "PERCEPTS_CACHE_GIGABYTES"
PARTIAL, CHECKED, ADMISSION = ".partial", STAMP, ".admission"
FREE_SHARE: Final = 0.1
"""Share of the disk that stays free where no bound is given."""
POLL_SECONDS: Final = 0.2
SPARE_DESCRIPTORS: Final = 512
NUM_READERS: Final = 4
"""Files that a process reads at the same time."""

Log = Callable[[str], None]


def silent(line: str) -> None:
    """Drops a line of the log."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to have on this node. Its digest is the one that its store promises; None where there is no promise."""

    uri: str
    num_bytes: int
    sha256: str | None = None

    @property
    def name(self) -> str:
        """In the cache: by content, or by address and state of the remote file."""
        suffix = Path(self.uri).suffix
        if self.sha256 is not None:
            return self.sha256 + suffix
        fs, path = filesystem(self.uri)
        with reaching(self.uri):
            state = fs.ukey(path)
        return sha256_bytes(f"{self.uri} {state}".encode()) + suffix


class CacheEntry:
    """A file of the cache in use: not evicted while this object is alive."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        weakref.finalize(self, os.close, descriptor)


@dataclass(frozen=True)
class NodeCache:
    """A directory of this node."""

    directory: Path
    max_bytes: int | None = None
    """Bytes of all files together; None leaves `FREE_SHARE` of the disk free."""
    log: Log = field(default=silent, compare=False)

    @classmethod
    def of_environment(cls, log: Log = silent, directory: str | None = None) -> "NodeCache":
        """Returns the cache of PERCEPTS_CACHE (else of the temporary directory) and of PERCEPTS_CACHE_GIGABYTES.

        directory: takes the place of PERCEPTS_CACHE.

        Raises:
            ConfigError: the size is no positive number, or the directory is a URL or the root.
        """
        default = Path(tempfile.gettempdir()) / f"percepts-cache-{os.getuid()}"
        named = directory or os.environ.get(DIRECTORY_VARIABLE) or str(default)
        path = Path(absolute(named))
        if is_url(named) or not path.name:
            raise ConfigError(
                f"the node's cache is {named!r}; give --cache or {DIRECTORY_VARIABLE} a folder of each node, such as "
                "/scratch/cache"
            )
        text = os.environ.get(GIGABYTES_VARIABLE)
        try:
            max_bytes = int(float(text) * 1e9) if text else None
        except (ValueError, OverflowError):  # OverflowError: of infinity
            max_bytes = 0
        if max_bytes is not None and max_bytes <= 0:
            raise ConfigError(f"{GIGABYTES_VARIABLE} is {text!r}; give a number of gigabytes above 0, or leave it out")
        return cls(path, max_bytes, log)

    @property
    def compiled_code(self) -> Path:
        """Directory beside the cache for compiled code, which neither counts as its bytes nor is evicted with them."""
        directory = self.directory.with_name(f"{self.directory.name}-compiled")
        if directory.exists():
            check_own(directory, "--cache")
        return directory

    @property
    def stamps(self) -> Path | None:
        """Directory beside the cache for stamps of local stores' files; None where this user cannot make it."""
        directory = self.directory.with_name(f"{self.directory.name}-checked")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:  # files are hashed whenever they are opened, then
            return None
        check_own(directory, "--cache")
        return directory

    def fetch_all(self, files: Sequence[RemoteFile]) -> list[CacheEntry]:
        """Returns an entry for each file, in their order; missing files are read, several at a time.

        Raises:
            ConfigError: together they are larger than the cache may become.
            CorruptArtifact: the bytes of one are not those that its store promises.
            FileNotFoundError: one is not there.
            StoreError: the disk is full, or the cache is another user's.
        """
        total = sum(file.num_bytes for file in files)
        limit = self._limit(self._used_bytes())
        if total > limit:
            raise ConfigError(
                f"{len(files)} files of {total / 1e9:.3f} GB do not fit into the node's cache {self.directory}, which "
                f"may hold {limit / 1e9:.3f} GB: give a larger --cache-gigabytes, or --cache on a larger disk"
            )
        _allow_descriptors(2 * len(files))
        # Processes of a node begin at different files, so that they share the reading and do not queue for one.
        first = os.getpid() % max(1, len(files))
        turns = [*range(first, len(files)), *range(first)]
        with ThreadPoolExecutor(NUM_READERS, "cache") as threads:
            entries = dict(zip(turns, threads.map(lambda turn: self.fetch(files[turn]), turns), strict=True))
        return [entries[number] for number in range(len(files))]

    def fetch(self, file: RemoteFile) -> CacheEntry:
        """Returns the file, read if it is not here or has changed. Raises as `fetch_all`."""
        fill = partial(_download, file)
        return self.entry(file.name, file.num_bytes, fill, sha256=file.sha256, what=file.uri)

    def entry(
        self, name: str, num_bytes: int, fill: Callable[[BinaryIO], str], *, sha256: str | None = None, what: str
    ) -> CacheEntry:
        """Returns the file `name`.

        Where it is missing, `fill` writes its `num_bytes` bytes and returns their digest.
        """
        path, waiting = self.usable_directory() / name, False
        while True:
            descriptor = self._open(path)
            if descriptor is not None:
                if has_digest(path, descriptor, sha256, Path(f"{path}{CHECKED}")):
                    os.utime(f"{path}{CHECKED}")
                    return CacheEntry(path, descriptor)
                self.log(f"{path} has changed on this node's disk: getting {what} again")
                _forget(path)
                os.close(descriptor)
                continue
            filled = self._fill(path, num_bytes, fill)
            if filled is not None:
                return CacheEntry(path, filled)
            if not waiting:
                waiting = True
                self.log(f"waiting for another process of this node to get {what}")
            time.sleep(POLL_SECONDS)

    def usable_directory(self) -> Path:
        """Returns the directory, which is made where there is none.

        Raises:
            StoreError: it cannot be made or written to, or others may write to it.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "not writable")
            check_own(self.directory, "--cache")
        except OSError as error:
            raise StoreError(
                f"the node's cache {self.directory} cannot be used ({error.strerror}): give another --cache"
            ) from error
        return self.directory

    def _open(self, path: Path) -> int | None:
        """Opens the finished file with a shared lock; returns None where there is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # evicted between the two calls
        return None

    def _fill(self, path: Path, num_bytes: int, fill: Callable[[BinaryIO], str]) -> int | None:
        """Makes the file; a descriptor with a shared lock, or None where another process was at it."""
        partial = path.with_name(path.name + PARTIAL)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _try_lock(descriptor) or not _is_at(descriptor, partial):
                os.close(descriptor)
                return None
            if path.exists():
                partial.unlink()
                os.close(descriptor)
                return None
            try:
                self._allocate(partial, descriptor, num_bytes)
                with os.fdopen(os.dup(descriptor), "wb") as target:
                    digest = fill(target)
                    target.flush()
                    os.ftruncate(descriptor, target.tell())
                os.fsync(descriptor)
                os.rename(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            write_stamp(Path(f"{path}{CHECKED}"), descriptor, digest)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)  # evicted between the two locks
            return None
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(
                    f"the disk of the node's cache {self.directory} is full: free some of it, or give --cache on "
                    "another disk"
                ) from error
            raise

    def _allocate(self, partial: Path, descriptor: int, num_bytes: int) -> None:
        """Makes room, by eviction if need be, and takes it; so that the bytes count before they are there."""
        os.ftruncate(descriptor, 0)
        with self._admission():
            used_bytes = self._used_bytes(sweep=partial)
            missing = used_bytes + num_bytes - self._limit(used_bytes)
            if missing > 0:
                missing -= self._evict(missing)
            if missing > 0:
                raise ConfigError(
                    f"the node's cache {self.directory} lacks {missing / 1e9:.3f} GB for {partial.stem}: what it holds "
                    "is in use; give a larger --cache-gigabytes, or --cache on a larger disk"
                )
            if num_bytes:
                os.posix_fallocate(descriptor, 0, num_bytes)

    @contextmanager
    def _admission(self) -> Iterator[None]:
        descriptor = os.open(self.directory / ADMISSION, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _used_bytes(self, *, sweep: Path | None = None) -> int:
        """Counts the bytes of all files, finished or not. With `sweep` (the caller's own), leftovers are removed."""
        used_bytes = 0
        for path in self.usable_directory().iterdir():
            if path.suffix == CHECKED or path.name == ADMISSION or path == sweep:
                continue
            if sweep is not None and path.suffix == PARTIAL and _remove_unlocked(path):
                continue
            used_bytes += _size(path)
        return used_bytes

    def _limit(self, used_bytes: int) -> int:
        if self.max_bytes is not None:
            return self.max_bytes
        disk = shutil.disk_usage(self.usable_directory())
        return used_bytes + disk.free - int(FREE_SHARE * disk.total)

    def _evict(self, num_bytes: int) -> int:
        """Removes at least so many bytes that no process maps, the least recently opened first; returns how many."""
        others = (PARTIAL, CHECKED, ADMISSION)
        files = [path for path in self.directory.iterdir() if not path.name.endswith(others)]
        freed = 0
        for path in sorted(files, key=_last_used):
            if freed >= num_bytes:
                break
            size = _size(path)
            if _remove_unlocked(path):
                path.with_name(path.name + CHECKED).unlink(missing_ok=True)
                freed += size
        return freed


def _download(file: RemoteFile, target: BinaryIO) -> str:
    """Copies the remote file; returns its digest, which must be the promised one."""
    fs, path = filesystem(file.uri)
    digest = hashlib.sha256()
    with reaching(file.uri), fs.open(path, "rb", block_size=16 * CHUNK_BYTES, cache_type="readahead") as source:
        while piece := source.read(16 * CHUNK_BYTES):
            digest.update(piece)
            target.write(piece)
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        raise CorruptArtifact(
            f"{file.uri} has sha256 {digest.hexdigest()}, its store promises {file.sha256}: the store has changed; "
            "remove that file and run the recipe again"
        )
    return digest.hexdigest()


def _allow_descriptors(num_more: int) -> None:
    """Raises this process's limit of descriptors as far as the system lets it: every entry in use holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_more + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _is_at(descriptor: int, path: Path) -> bool:
    """Returns whether the open file is the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unlocked(path: Path) -> bool:
    """Removes a file that no process has locked; whether it did."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        if not _try_lock(descriptor) or not _is_at(descriptor, path):
            return False
        path.unlink()
        return True
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(path.name + CHECKED).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _last_used(path: Path) -> float:
    for candidate in (path.with_name(path.name + CHECKED), path):
        try:
            return candidate.stat().st_mtime
        except FileNotFoundError:
            continue
    return 0.0
