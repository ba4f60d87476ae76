"""Archives read in a process of its own, whose memory is limited.

Decompressors take the memory that an archive's header demands, for a dictionary of gigabytes or a directory of millions
of names, and libarchive is C code: in this process nothing but the bytes of members arrives.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Final

from pipeline.core.errors import SourceError
from stages.video.archives import ArchiveLimits, ArchiveMember, iter_members
from stages.video.limits import Limits
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied

MAX_STALL_S: Final = 600.0
"""Seconds without a block of a member after which the process is ended."""

_Item = tuple[str, int | None] | bytes | Counter[str]
"""A member's path and size, a block of its bytes, or, at the end, the numbers of members that were left out."""


def iter_isolated_members(
    path: Path,
    wanted: Callable[[str], bool],
    limits: ArchiveLimits,
    *,
    kept: Mapping[str, int],
    left_out: Counter[str],
) -> Generator[ArchiveMember, None, None]:
    """Yields what `stages.video.archives.iter_members` does, from a process that does the reading.

    wanted: a function that pickles.
    kept: path -> size of members whose bytes are not needed: they come without any.
    left_out: gets the number of members that are not wanted, by suffix, at the end.

    Raises:
        SourceError: as `iter_members`, and where reading takes more than `limits.max_memory_bytes`.
    """
    bounds = Limits(max_memory_bytes=limits.max_memory_bytes, max_stall_s=MAX_STALL_S)
    with tempfile.TemporaryDirectory(prefix="percepts-") as directory, IsolatedProcess(bounds) as process:
        items = _explained(process.stream(_read, path, wanted, limits, dict(kept), directory), path.name)
        ahead: list[tuple[str, int | None]] = []

        def chunks() -> Iterator[bytes]:
            for item in items:
                if isinstance(item, bytes):
                    yield item
                elif isinstance(item, Counter):
                    left_out.update(item)
                else:
                    ahead.append(item)
                    return

        for _ in chunks():
            raise AssertionError("bytes of no member")
        while ahead:
            name, size_bytes = ahead.pop()
            rest = chunks()
            yield ArchiveMember(name, size_bytes, rest)
            for _ in rest:  # what the caller has not read
                pass


def _explained(items: Iterator[_Item], shown: str) -> Iterator[_Item]:
    try:
        yield from items
    except ProcessDied as death:
        raise SourceError(f"{shown} cannot be read: {death}; unpack it by hand if you trust it") from death


def _read(
    path: Path, wanted: Callable[[str], bool], limits: ArchiveLimits, kept: Mapping[str, int], directory: str
) -> Iterator[_Item]:
    left_out: Counter[str] = Counter()
    for member in iter_members(path, wanted, limits, directory=directory, left_out=left_out):
        yield member.path, member.size_bytes
        if member.size_bytes is None or kept.get(member.path) != member.size_bytes:
            yield from member.chunks
    yield left_out
