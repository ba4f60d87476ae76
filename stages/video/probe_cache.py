"""A cache of probed videos in the store, so that indexing a listing that has grown costs only the new videos.

    <store>/probed/<16 digits>.parquet    a ledger's columns, and `source`: a digest of URI, size, stamp and limits

A video is what its bytes are: a record is taken over only where the listing gives the same name, the same size and the
same etag or time of change as when it was hashed, and extraction checks the hash of whatever it decodes. What has no
etag and no time is hashed always, as is what was rejected.

Shapes: N sources of a listing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
import pyarrow as pa

from pipeline.core.files import join, list_files
from pipeline.core.parquet import groups_of, iter_checked, write_groups
from stages.video.ledger import SCHEMA, VideoRecord, to_table
from stages.video.limits import Limits
from stages.video.record_table import DIGEST_BYTES, DigestOrder, Digests
from stages.video.sources import VideoSource

PROBE_CACHE: Final = "probed"
"""The directory, below the store's root."""
VERSION: Final = 2
"""The version of probing: raise it where the same bytes would give another record."""
MIN_AGE_S: Final = 2.0
"""A local file that changed later than this before it was listed may change again without its time showing it."""

_SCHEMA: Final = SCHEMA.append(pa.field("source", pa.binary(DIGEST_BYTES), nullable=False)).remove_metadata()


def source_digest(source: VideoSource, limits: Limits) -> bytes:
    """Returns the digest of all that decides the record of a source, as far as its listing shows."""
    value = [VERSION, source.uri, source.size_bytes, source.stamp, asdict(limits)]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()


def is_cacheable(source: VideoSource, listed_at_ns: int) -> bool:
    """Returns whether a later listing would show that the file has changed."""
    if not source.stamp or source.size_bytes is None:
        return False
    is_local = "://" not in source.uri
    return not is_local or listed_at_ns - int(source.stamp) > MIN_AGE_S * 1e9


def write_cached(uri: str, records: Iterable[tuple[bytes, VideoRecord]]) -> None:
    """Writes records, each with the digest of its source, atomically."""
    write_groups(uri, _SCHEMA, map(_to_table, groups_of(records)))


def _to_table(group: Sequence[tuple[bytes, VideoRecord]]) -> pa.Table:
    sources, records = zip(*group, strict=True)
    column = pa.array(sources, pa.binary(DIGEST_BYTES))
    return to_table(records).append_column(_SCHEMA.field("source"), column).cast(_SCHEMA)


def read_cached(uri: str, source_N: Digests) -> Iterator[tuple[int, VideoRecord]]:
    """Yields (place in `source_N`, record) of the sources that a directory of such files knows.

    Raises:
        CorruptArtifact: a file is damaged.
    """
    order = DigestOrder(source_N)
    for name in list_files(uri):
        for table in read_file(join(uri, name)):
            digest_U = np.frombuffer(b"".join(table["source"].to_pylist()), f"S{DIGEST_BYTES}")
            place_U = order.find(digest_U)
            wanted = table.drop_columns("source").filter(pa.array(place_U >= 0))
            for place, row in zip(place_U[place_U >= 0].tolist(), wanted.to_pylist(), strict=True):
                yield place, VideoRecord(**row)


def read_file(uri: str) -> Iterator[pa.Table]:
    """Yields the row groups of one file. Raises CorruptArtifact."""
    return iter_checked(uri, _SCHEMA, "a cache of probed videos")
