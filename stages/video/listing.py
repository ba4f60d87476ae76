"""The sources of an index and what is found of each: on this machine's disk, with a few numbers of each in memory.

Shapes: N sources.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.core.disk_list import DiskList
from stages.video import probe_cache
from stages.video.container import Limits
from stages.video.ledger import VideoRecord
from stages.video.record_table import DIGEST_BYTES, DigestOrder, digests
from stages.video.sources import VideoSource, iter_videos, with_stamp

REQUESTS_AT_A_TIME: Final = 32
"""Videos of which a manifest tells no more than a URL: a store answers in some tens of milliseconds."""


def _with_known_stamps(sources: Iterable[VideoSource]) -> Iterator[VideoSource]:
    remaining = iter(sources)
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        while batch := list(itertools.islice(remaining, 8 * REQUESTS_AT_A_TIME)):
            has_stamps = all(source.stamp or "://" not in source.uri for source in batch)
            yield from batch if has_stamps else threads.map(with_stamp, batch)


class Listing:
    """The sources, on this machine's disk, and a few numbers of each."""

    def __init__(self, places: Sequence[str], limits: Limits) -> None:
        self.sources: DiskList[VideoSource] = DiskList()
        raw, is_cacheable, has_no_part = bytearray(), bytearray(), bytearray()
        for source in _with_known_stamps(iter_videos(places)):
            self.sources.append(source)
            raw += probe_cache.source_digest(source, limits)
            is_cacheable.append(probe_cache.is_cacheable(source))
            has_no_part.append(source.part is None)
        self.digest_N = np.frombuffer(raw, f"S{DIGEST_BYTES}")
        self.is_cacheable_N = np.frombuffer(is_cacheable, np.bool_)
        self.has_no_part_N = np.frombuffer(has_no_part, np.bool_)

    def __len__(self) -> int:
        return len(self.sources)

    def key(self, place: int) -> bytes:
        """Digest of a source."""
        return self.digest_N[place : place + 1].tobytes()


class ProbeResults:
    """A record of each source, on this machine's disk as they come, and a few numbers of each."""

    def __init__(self, num_sources: int) -> None:
        self._records: DiskList[VideoRecord] = DiskList()
        self._record_N = np.full(num_sources, -1, np.int64)
        self.sha256_N = np.zeros(num_sources, f"S{DIGEST_BYTES}")
        self.is_rejected_N = np.zeros(num_sources, np.bool_)
        self.is_new_N = np.zeros(num_sources, np.bool_)
        """What is not in the store's memory yet."""

    def add(self, place: int, record: VideoRecord, *, is_new: bool) -> None:
        """The record of the source at a place."""
        self._record_N[place] = len(self._records)
        self._records.append(record)
        self.sha256_N[place : place + 1] = digests([record.sha256])
        self.is_rejected_N[place] = record.verdict == "rejected"
        self.is_new_N[place] = is_new

    def __getitem__(self, place: int) -> VideoRecord:
        return self._records[int(self._record_N[place])]

    def missing(self) -> list[int]:
        """Places without a record."""
        return np.flatnonzero(self._record_N < 0).tolist()

    def first(self) -> npt.NDArray[np.int64]:
        """(N,) place of the first source with the same bytes, once all are there; unread ones are like nothing else."""
        first_N = DigestOrder(self.sha256_N).find(self.sha256_N)
        return np.where(self.sha256_N == digests([""]), np.arange(len(first_N)), first_N)
