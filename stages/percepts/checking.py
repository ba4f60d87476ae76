"""Recounts shards: whether a file of percepts holds what its sidecar says, and whether accounts close.

Digests are the business of whoever reads all bytes; here only the footer and the column of videos are read.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorruptArtifact
from pipeline.files import filesystem, join
from stages.percepts.schema import read_extractor
from stages.percepts.shards import Outcome, Shard, ShardUse


def shard_faults(store_uri: str, shard: Shard) -> Iterator[str]:
    """What is wrong with a shard, each in half a sentence; nothing where it is as its sidecar says.

    Raises:
        FileNotFoundError: its Parquet file is gone.
        StoreError: a newer version of percepts wrote it.
    """
    uri = join(store_uri, shard.path)
    fs, path = filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
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
    for video, outcome in shard.outcomes.items():
        yield from outcome_faults(video, outcome)
        if rows[video] != outcome.frames_decoded:
            yield f"has {rows[video]:,} rows of video {video[:12]}, its sidecar says {outcome.frames_decoded:,}"
    for video in rows.keys() - shard.outcomes.keys():
        yield f"has {rows[video]:,} rows of video {video[:12]}, which its sidecar does not name"


def _rows(parquet: pq.ParquetFile) -> Counter[str]:
    """Rows of each video, counted a row group at a time."""
    rows: Counter[str] = Counter()
    for batch in parquet.iter_batches(columns=["video"]):
        column = batch.column(0)
        counts = np.bincount(column.indices.to_numpy(), minlength=len(column.dictionary))
        rows.update(dict(zip(column.dictionary.to_pylist(), counts.tolist(), strict=True)))
    return +rows


def outcome_faults(video: str, outcome: Outcome) -> Iterator[str]:
    """Where the account of a video does not close."""
    found = outcome.frames_decoded + outcome.frames_dropped + outcome.frames_missing
    if found != outcome.frames_expected:
        yield (
            f"the account of video {video[:12]} does not close: {outcome.frames_expected:,} expected, "
            f"{outcome.frames_decoded:,} decoded + {outcome.frames_dropped:,} dropped + "
            f"{outcome.frames_missing:,} missing = {found:,}"
        )


COUNTS = ("frames_expected", "frames_decoded", "frames_dropped", "frames_missing")


def ledger_faults(
    ledger: pa.Table, facts: Mapping[str, int | float | str], uses: list[ShardUse], rows: Mapping[str, int]
) -> Iterator[str]:
    """What is wrong with the ledger of an extraction.

    `uses` are its shards as it names them, `rows` the percepts that the store holds now of each of its videos; videos
    that were taken down are in neither.
    """
    counted: dict[str, tuple[int, ...]] = {}
    columns = [ledger[name].to_pylist() for name in ("sha256", "uri", *COUNTS)]
    for sha256, uri, *counts in zip(*columns, strict=True):
        expected, *parts = (count or 0 for count in counts)
        if sum(parts) != expected:
            yield f"its account of {uri} does not close: {expected:,} expected, {sum(parts):,} found"
        counted[sha256 or uri] = (expected, *parts)
    for name, fact in zip(
        COUNTS, ("num_frames_expected", "num_frames", "num_frames_dropped", "num_frames_missing"), strict=True
    ):
        total = sum(counts[COUNTS.index(name)] for counts in counted.values())
        if fact in facts and facts[fact] != total:
            yield f"its ledger sums to {total:,} {name.removeprefix('frames_')}, its manifest says {facts[fact]:,}"
    for video in itertools.chain.from_iterable(use.videos for use in uses):
        decoded = counted.get(video, (0, 0))[1]
        if video in rows and rows[video] != decoded:
            yield f"its ledger counts {decoded:,} frames of video {video[:12]}, the shards hold {rows[video]:,}"
