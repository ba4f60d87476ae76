"""Files inside archives: zip, tar (plain, gzip, bzip2, xz) and rar, archives within archives included, in one pass.

    with local_copy("s3://bucket/hmdb51_org.rar") as path:
        for member in iter_members(path, has_video_suffix, ArchiveLimits()):
            write(member.path, member.chunks)

An archive comes from a stranger, and nothing in it is trusted: names are checked before anything is read, bytes are
counted as they come and not as headers promise them, links and devices are refused, and so is what unpacks to much more
than it is. Rar is read by libarchive, a library of the system; zip and tar by Python's own modules.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final, cast

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.numbers import check_numbers
from pipeline.core.stage import CAME_LATER
from stages.video.lists.rows import is_utf8
from stages.video.lists.suffixes import suffix_of

ZIP_SUFFIXES: Final = (".zip",)
TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
RAR_SUFFIXES: Final = (".rar",)
ARCHIVE_SUFFIXES: Final = ZIP_SUFFIXES + TAR_SUFFIXES + RAR_SUFFIXES

UNREAD_SUFFIXES: Final = (".7z", ".zst", ".tzst", ".lz4", ".z", ".cab", ".ace", ".iso", ".gz", ".bz2", ".xz")
"""Suffixes of archives, and of single packed files, that nothing here reads."""
RAR_MARKS: Final = {b"Rar!\x1a\x07\x00": "rar", b"Rar!\x1a\x07\x01\x00": "rar5"}
"""The first bytes of rar files, with libarchive's names of the two formats."""

CHUNK_BYTES: Final = 1 << 20
MAX_NAME_BYTES: Final = 1024
MAX_PART_BYTES: Final = 200
"""The longest name of a folder or file: file systems allow 255 bytes, and an unfinished write needs some more."""
ZIP_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods whose unpacking is bounded: a bzip2 or LZMA member of 1 kB unfolds to gigabytes in one step."""
RATIO_SLACK_BYTES: Final = 64 << 20
"""Archives of small files may shrink a lot: the ratio counts from here on."""


@dataclass(frozen=True, kw_only=True)
class ArchiveLimits:
    """The bounds on an archive, with all archives inside it."""

    max_bytes: int = 1 << 40
    """Unpacked, in total."""
    max_files: int = 1_000_000
    """Members, those that are not wanted included."""
    max_ratio: float = 100.0
    """Unpacked bytes to bytes of the outermost archive. Video hardly shrinks: 1 is usual."""
    max_depth: int = 3
    """Archives inside each other: 1 allows none inside the given one; HMDB-51 has 2."""
    max_memory_bytes: int = field(default=256 << 20, metadata=CAME_LATER)
    """Memory that reading an archive may take. One that was packed with a larger dictionary needs more."""

    def __post_init__(self) -> None:
        if min(self.max_bytes, self.max_files, self.max_depth, self.max_memory_bytes) < 1 or self.max_ratio < 1:
            raise ConfigError("max_bytes, max_files, max_ratio, max_depth and max_memory_bytes must be at least 1")
        check_numbers(self)


@dataclass(frozen=True)
class ArchiveMember:
    """A wanted file of an archive. Its bytes must be read before the next member is taken, or they are skipped."""

    path: str
    """Relative and clean: no `..`, no backslash. What is inside an inner archive lies below that archive's path."""
    size_bytes: int | None
    """The size in the member's header; None where the header has none."""
    chunks: Iterator[bytes]


@dataclass
class _RawMember:
    """A member as its format has it."""

    name: str
    kind: str
    """file, folder, or what is refused: link, device, file with a password."""
    size_bytes: int | None = None
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))


def is_archive(name: str) -> bool:
    """Returns whether a file's name has the suffix of an archive."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def iter_members(
    path: Path,
    wanted: Callable[[str], bool],
    limits: ArchiveLimits,
    *,
    directory: str | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[ArchiveMember]:
    """Yields the wanted files of the archive `path` and of the archives in it, in the order in which they lie there.

    wanted: whether a file is wanted, by its path; others are passed over, archives are always entered.
    directory: of temporary copies of archives inside the archive; by default the system's.
    left_out: gets the number of members that are not wanted, by suffix.

    Raises:
        SourceError: no archive that can be read, or one with something in it that is refused (see the head of this
            file); the message names the member and the rule.
    """
    taken = _Taken()
    reader = _Reader(
        wanted, _Budget(limits, path.stat().st_size, path.name), directory, Counter() if left_out is None else left_out
    )
    for member in reader.members(path, path.name, "", 1):
        taken.check(member.path, path.name)
        yield member


class _Taken:
    """The paths that members landed on, as a file system without case and with one form of each accent sees them."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def check(self, path: str, shown: str) -> None:
        """Raises SourceError where two members would land on one path, or one below another."""
        folded = unicodedata.normalize("NFC", path).casefold()
        parts = folded.split("/")
        folders = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        if folded in self._files or folded in self._folders or folders & self._files:
            raise SourceError(
                f"{shown}: two members land on {path!r} (or one is the folder of the other); "
                "unpack the archive by hand and give the folder"
            )
        self._files.add(folded)
        self._folders |= folders


@dataclass(frozen=True)
class _Reader:
    """The reading of an archive and of those inside it."""

    wanted: Callable[[str], bool]
    budget: _Budget
    directory: str | None
    left_out: Counter[str]

    def members(self, path: Path, shown: str, prefix: str, depth: int) -> Iterator[ArchiveMember]:
        seen: set[str] = set()
        for raw in _raw_members(path, shown, self.budget):
            where = f"{shown}: member {raw.name!r}"
            self.budget.count_file()
            clean = _clean(raw.name, where)
            if raw.kind not in ("file", "folder"):
                raise SourceError(f"{where} is a {raw.kind}; only plain files and folders are unpacked")
            if raw.kind == "folder":
                continue
            if clean in seen:
                raise SourceError(f"{where} is there twice; unpack the archive by hand and give the folder")
            seen.add(clean)
            if is_archive(clean):
                yield from self._inner_members(raw, clean, shown, prefix, depth)
            elif self.wanted(clean):
                yield ArchiveMember(prefix + clean, raw.size_bytes, self.budget.counted(raw.chunks))
            else:
                self.left_out[suffix_of(clean)] += 1

    def _inner_members(
        self, raw: _RawMember, clean: str, shown: str, prefix: str, depth: int
    ) -> Iterator[ArchiveMember]:
        if depth == self.budget.limits.max_depth:
            where = f"{shown}: member {raw.name!r}"
            raise SourceError(f"{where} is an archive inside {depth} others, max_depth is {depth}")
        suffix = _suffix(clean)
        with tempfile.NamedTemporaryFile(prefix="percepts-", suffix=suffix, dir=self.directory) as file:
            for chunk in self.budget.counted(raw.chunks):
                file.write(chunk)
            file.flush()
            inner = prefix + clean[: -len(suffix)] + "/"
            yield from self.members(Path(file.name), f"{shown}/{clean}", inner, depth + 1)


def _clean(name: str, where: str) -> str:
    """Returns the name as a relative path. Raises SourceError where it is none that stays inside a folder."""
    unix = name.replace("\\", "/")
    parts = [part for part in unix.split("/") if part not in ("", ".")]
    if unix.startswith("/") or re.match(r"[A-Za-z]:(?!:)", unix):
        raise SourceError(f"{where} has an absolute path; an archive may only hold relative ones")
    if ".." in parts:
        raise SourceError(f"{where} leads out of its folder; an archive may not hold '..'")
    clean = "/".join(parts)
    too_long = len(clean.encode("utf-8", "replace")) > MAX_NAME_BYTES
    longest = max((len(part.encode("utf-8", "replace")) for part in parts), default=0)
    if longest > MAX_PART_BYTES:
        raise SourceError(f"{where} has no usable name: a part has {longest} bytes, {MAX_PART_BYTES} are allowed")
    # fsspec reads `::` in an address as its own.
    if not clean or too_long or "::" in clean or re.search(r"[\x00-\x1f]", clean) or not is_utf8(clean):
        raise SourceError(f"{where} has no usable name: empty, over {MAX_NAME_BYTES} bytes, with '::', or not text")
    return clean


def _suffix(name: str) -> str:
    return next(suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix))


class _Budget:
    """A count of the members and bytes that came out of an archive, which raises where they exceed the limits."""

    def __init__(self, limits: ArchiveLimits, archive_bytes: int, shown: str) -> None:
        self.limits = limits
        self._most_bytes = min(limits.max_bytes, RATIO_SLACK_BYTES + int(limits.max_ratio * archive_bytes))
        self._shown = shown
        self._num_bytes = self._num_files = 0

    def count_file(self) -> None:
        self._num_files += 1
        if self._num_files > self.limits.max_files:
            raise SourceError(f"{self._shown} holds more than max_files = {self.limits.max_files} members")

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._num_bytes += len(chunk)
            self.check(self._num_bytes)
            yield chunk

    def check(self, num_bytes: int) -> None:
        """Checks the bytes that came out so far, of members or of one compressed stream. Raises SourceError."""
        if num_bytes > self._most_bytes:
            raise SourceError(
                f"{self._shown} unpacks to more than {self._most_bytes} bytes "
                f"(max_bytes = {self.limits.max_bytes}, max_ratio = {self.limits.max_ratio:g}); "
                "unpack it by hand if you trust it"
            )


DAMAGE: Final = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
"""The exceptions of Python's modules where an archive is broken, or compressed in a way that they do not know."""


def _raw_members(path: Path, shown: str, budget: _Budget) -> Iterator[_RawMember]:
    name = path.name.lower()
    if name.endswith(RAR_SUFFIXES):
        yield from _rar(path, shown)
        return
    try:
        yield from _zip(path, shown) if name.endswith(ZIP_SUFFIXES) else _tar(path, shown, budget)
    except DAMAGE as error:
        raise _unreadable(shown, error) from error


def _unreadable(shown: str, error: Exception | str) -> SourceError:
    return SourceError(f"{shown} cannot be read: {error}; is it whole? If it is, unpack it and give the folder")


def _zip(path: Path, shown: str) -> Iterator[_RawMember]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if info.is_dir():
                yield _RawMember(info.filename, "folder")
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                yield _RawMember(info.filename, "link" if stat.S_ISLNK(mode) else "device")
            elif info.compress_type not in ZIP_METHODS:
                yield _RawMember(info.filename, f"member compressed by method {info.compress_type}")
            elif info.flag_bits & 1:
                yield _RawMember(info.filename, "file with a password")
            else:
                yield _RawMember(info.filename, "file", info.file_size, _chunks(partial(archive.open, info), shown))


MAX_HEADER_BYTES: Final = 1 << 20
COMPRESSIONS: Final[dict[bytes, Callable[[Path], IO[bytes]]]] = {
    b"\x1f\x8b": cast(Callable[[Path], IO[bytes]], partial(gzip.open, mode="rb")),
    b"BZh": partial(bz2.open, mode="rb"),
    b"\xfd7zXZ\x00": partial(lzma.open, mode="rb"),
}
"""Openers by the first bytes of a file, each of which unpacks no more than one read needs.

The stream of tarfile itself unpacks 10 kB of input at a time, which may be 10 GB of bzip2.
"""


class _BoundedHeader(tarfile.TarInfo):
    """A header of a tar, whose extension (pax, GNU long name) is read into memory only if it is small."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        is_extension = self.type in (b"x", b"g", b"X", b"L", b"K")
        if is_extension and self.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes, {MAX_HEADER_BYTES} are allowed")
        return super()._proc_member(archive)  # type: ignore[misc]


def _uncompressed(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        start = file.read(max(map(len, COMPRESSIONS)))
    opener = next((opener for mark, opener in COMPRESSIONS.items() if start.startswith(mark)), None)
    return open(path, "rb") if opener is None else opener(path)


class _CountedStream:
    """A stream whose bytes count, those of members that are passed over, too."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream, self._budget, self._num_bytes = stream, budget, 0

    def read(self, num_bytes: int) -> bytes:
        """Reads bytes. Raises SourceError beyond the limits."""
        data = self._stream.read(num_bytes)
        self._num_bytes += len(data)
        self._budget.check(self._num_bytes)
        return data


def _tar(path: Path, shown: str, budget: _Budget) -> Iterator[_RawMember]:
    with _uncompressed(path) as stream:
        counted = cast(IO[bytes], _CountedStream(stream, budget))
        with tarfile.open(fileobj=counted, mode="r|", tarinfo=_BoundedHeader) as archive:
            for info in archive:
                if info.isdir():
                    yield _RawMember(info.name, "folder")
                elif info.isfile():
                    yield _RawMember(info.name, "file", info.size, _chunks(partial(archive.extractfile, info), shown))
                else:
                    yield _RawMember(info.name, "link" if info.issym() or info.islnk() else "device")
            if _goes_on(archive):
                raise SourceError(f"{shown} goes on behind its end: unpack joined tars (tar -i) and give the folder")


def _goes_on(archive: tarfile.TarFile) -> bool:
    """Returns whether anything but zeros follows the end of a tar that is read as a stream."""
    read = cast(IO[bytes], archive.fileobj).read
    try:
        return any(chunk.strip(b"\0") for chunk in iter(partial(read, CHUNK_BYTES), b""))
    except DAMAGE:  # junk behind a compressed stream, which gzip itself passes over
        return False


def _chunks(open_member: Callable[[], IO[bytes] | None], shown: str) -> Iterator[bytes]:
    try:
        file = open_member()
        assert file is not None
        with file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except DAMAGE as error:
        raise _unreadable(shown, error) from error


def _rar(path: Path, shown: str) -> Iterator[_RawMember]:
    """Yields the members of a rar file, version 5, or 4 unless it is solid, encrypted or in volumes."""
    if re.search(r"\.part\d+\.rar$", path.name.lower()):
        raise SourceError(f"{shown} is one volume of several; unpack them (unrar x) and give the folder")
    libarchive = _libarchive()
    with open(path, "rb") as file:
        start = file.read(max(map(len, RAR_MARKS)))
    # Left to itself, libarchive takes a rar that ends in a stored zip for that zip.
    rar_format = next((name for mark, name in RAR_MARKS.items() if start.startswith(mark)), None)
    if rar_format is None:
        raise _unreadable(shown, "it does not begin as a rar does")
    try:
        with libarchive.file_reader(str(path), format_name=rar_format) as archive:
            for entry in archive:
                kind = "folder" if entry.isdir else "file" if entry.isreg and not entry.linkpath else "link"
                blocks = _blocks(entry, libarchive.ArchiveError, shown) if kind == "file" else iter(())
                yield _RawMember(entry.pathname, kind, entry.size, blocks)
    except libarchive.ArchiveError as error:
        raise _unreadable(shown, error.msg) from error


def _blocks(entry: Any, archive_error: type[Exception], shown: str) -> Iterator[bytes]:
    try:
        yield from entry.get_blocks(CHUNK_BYTES)
    except archive_error as error:
        # Not str(error), which holds an address in memory.
        raise _unreadable(shown, str(getattr(error, "msg", error))) from error


def _libarchive() -> Any:
    try:
        import libarchive
    except (ImportError, OSError, AttributeError, TypeError) as error:
        raise SourceError(
            f"rar archives need libarchive ({error}); install it (Debian: libarchive13, macOS: brew install "
            "libarchive), or unpack the archive (unrar x) and give the folder"
        ) from error
    return libarchive
