"""Recounts shards: whether a file of percepts holds what its sidecar says, and whether accounts close.

Only the footer and the column of videos are read here; digests are checked where all bytes are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import filesystem, join, reaching
from stages.percepts.schema import read_extractor
from stages.percepts.shards import Shard, VideoResult
from stages.video.record_table import DigestOrder, Digests, digests, first_of_each, hex_digits


def shard_faults(store_uri: str, shard: Shard) -> Iterator[str]:
    """Yields the faults of a shard, each in half a sentence; nothing where it agrees with its sidecar.

    Raises:
        FileNotFoundError: its Parquet file is gone.
        StoreError: a newer version of percepts wrote it.
    """
    uri = join(store_uri, shard.path)
    fs, path = filesystem(uri)
    try:
        with reaching(uri, but=(pa.ArrowInvalid,)), fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            extractor = read_extractor(parquet.schema_arrow.metadata, uri)
            rows = _rows(parquet)
    except (pa.ArrowInvalid, CorruptArtifact, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        yield f"cannot be read ({str(error).splitlines()[0]})"
        return
    if not extractor.fingerprint.startswith(shard.path.split("/")[-2]):
        yield f"is of extractor {extractor.fingerprint[:16]} and lies among those of another"
    if sum(rows.values()) != shard.rows:
        yield f"has {sum(rows.values()):,} rows, its sidecar says {shard.rows:,}"
    for video, result in shard.results.items():
        yield from result_faults(video, result)
        if rows[video] != result.frames_decoded:
            yield f"has {rows[video]:,} rows of video {video[:12]}, its sidecar says {result.frames_decoded:,}"
    for video in rows.keys() - shard.results.keys():
        yield f"has {rows[video]:,} rows of video {video[:12]}, which its sidecar does not name"


def _rows(parquet: pq.ParquetFile) -> Counter[str]:
    """Counts the rows of each video, a row group at a time."""
    rows: Counter[str] = Counter()
    for batch in parquet.iter_batches(columns=["video"]):
        column = batch.column(0)
        counts = np.bincount(column.indices.to_numpy(), minlength=len(column.dictionary))
        rows.update(dict(zip(column.dictionary.to_pylist(), counts.tolist(), strict=True)))
    return +rows


def result_faults(video: str, result: VideoResult) -> Iterator[str]:
    """Yields a fault where the account of a video does not close."""
    counted = result.frames_decoded + result.frames_dropped + result.frames_missing
    if counted != result.frames_expected:
        yield (
            f"the account of video {video[:12]} does not close: {result.frames_expected:,} expected, "
            f"{result.frames_decoded:,} decoded + {result.frames_dropped:,} dropped + "
            f"{result.frames_missing:,} missing = {counted:,}"
        )


ACCOUNT: Final = ("expected", "decoded", "dropped", "missing")


@dataclass(frozen=True, kw_only=True)
class IntactShard:
    """The facts about a shard that agrees with its sidecar: 36 bytes a video."""

    num_bytes: int
    replaces: tuple[str, ...]
    sha256_U: Digests
    """(U,) of its videos."""
    decoded_U: npt.NDArray[np.int32]
    """(U,) rows of each."""
    num_frames: dict[str, int]
    """The account: expected, decoded, dropped, missing."""

    @classmethod
    def of(cls, shard: Shard) -> Self:
        results = shard.results.values()
        return cls(
            num_bytes=shard.bytes,
            replaces=shard.replaces,
            sha256_U=digests(shard.results),
            decoded_U=np.array([result.frames_decoded for result in results], np.int32),
            num_frames={name: sum(getattr(result, f"frames_{name}") for result in results) for name in ACCOUNT},
        )


COUNTS: Final = tuple(f"frames_{name}" for name in ACCOUNT)
FACTS: Final = ("num_frames_expected", "num_frames", "num_frames_dropped", "num_frames_missing")


def ledger_faults(
    ledger: Iterable[pa.Table],
    facts: Mapping[str, int | float | str],
    references: Sequence[Digests],
    shards: Sequence[IntactShard],
    taken_down: Collection[str],
) -> Iterator[str]:
    """Yields the faults of the ledger of an extraction, given in pieces.

    `references` are its videos by the shards that it names, `shards` those that hold them now; videos that were taken
    down are not looked for. Shapes: R rows of the ledger, V videos of the shards.
    """
    nothing = digests([])
    sha256_V = np.concatenate([nothing, *(shard.sha256_U for shard in shards)])
    stored_V = np.concatenate([np.empty(0, np.int32), *(shard.decoded_U for shard in shards)])
    order = DigestOrder(sha256_V)
    is_used_V = np.zeros(len(sha256_V), np.bool_)
    for video_U in references:
        is_used_V[_places_of(order, video_U)] = True
    is_used_V[_places_of(order, digests(taken_down))] = False
    counted_V = np.zeros(len(sha256_V), np.int64)
    sha256_R, counts_R4 = [nothing], [np.empty((0, 4), np.int64)]
    for table in ledger:
        rows = table.select(["sha256", "uri", *COUNTS])
        digest_R, counts = digests(rows["sha256"].to_pylist()), np.stack([_counts(rows[name]) for name in COUNTS], 1)
        for place in np.flatnonzero(counts[:, 0] != counts[:, 1:].sum(1)).tolist():
            uri, (expected, *parts) = rows["uri"][place], counts[place].tolist()
            yield f"its account of {uri} does not close: {expected:,} expected, {sum(parts):,} found"
        place_U = order.find(digest_R)
        counted_V[place_U[place_U >= 0]] = counts[place_U >= 0, 1]
        sha256_R.append(digest_R)
        counts_R4.append(counts)
    totals = np.concatenate(counts_R4)[first_of_each(np.concatenate(sha256_R))].sum(0).tolist()
    for name, fact, total in zip(ACCOUNT, FACTS, totals, strict=True):
        if fact in facts and facts[fact] != total:
            yield f"its ledger sums to {total:,} {name}, its manifest says {facts[fact]:,}"
    for place in np.flatnonzero(is_used_V & (counted_V != stored_V)).tolist():
        (video,) = hex_digits(sha256_V[place : place + 1])
        yield (
            f"its ledger counts {counted_V[place]:,} frames of video {video[:12]}, the shards hold {stored_V[place]:,}"
        )


def _places_of(order: DigestOrder, video_U: Digests) -> npt.NDArray[np.int64]:
    """Returns the places of those videos that are there."""
    place_U = order.find(video_U)
    return place_U[place_U >= 0]


def _counts(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(column.fill_null(0).to_numpy(), np.int64)
