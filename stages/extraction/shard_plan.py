"""The plan of an extraction: the shards that it uses and those that it writes, and the results at its end.

The plan is a pure function of the index and of what the store holds when the run begins; it is written down before any
work, so that a run that was killed goes on as it began. Neither it nor the account holds records, but about a hundred
bytes a video: an index is read again, a row group at a time, wherever its records are needed.

Shapes: R rows of the index, V videos among them, U videos of a shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.disk_list import DiskList
from pipeline.core.files import exists, join, list_files, open_atomic, read_bytes
from pipeline.core.parquet import read_table
from stages.extraction.decode_queue import Video, rejected
from stages.extraction.shard_task import ShardTask
from stages.percepts.shards import (
    Shard,
    ShardReference,
    VideoResult,
    directory,
    iter_complete,
    iter_shards,
    reference_to,
    replacements,
    shard_name,
    sidecar,
)
from stages.percepts.takedowns import Takedown, takedown_result
from stages.video.ledger import VideoRecord
from stages.video.record_table import RecordTable, digests, hex_column, hex_digits

PLAN_FILE: Final = "plan.parquet"
"""A row a video, in the order of the index: `video` (sha256), `shard` (path), and whether that `is_stored` already."""
ATTEMPTS: Final = 3
"""Number of attempts at finding shards while a compaction rewrites them."""

DICTIONARY: Final = pa.dictionary(pa.int32(), pa.string())

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ShardPlan:
    """The shards that an extraction has and those that it makes."""

    rows: RecordTable
    paths: tuple[str, ...]
    """Paths of shards, those of the store and those to write."""
    shard_R: Codes
    """The shard, among `paths`, that holds or will hold the video of a row; -1 where the row is no video of its own."""
    is_stored_R: npt.NDArray[np.bool_]
    """Flags of the rows whose shard was complete when the plan was made."""

    def tasks(self, records: Iterable[VideoRecord]) -> DiskList[ShardTask]:
        """Returns the shards to write, with the videos that are in none yet. `records` are those of the index."""
        tasks: DiskList[ShardTask] = DiskList()
        shard = -1
        videos: list[Video] = []
        to_write_R = np.where(self.is_stored_R, -1, self.shard_R)
        for record, number in zip(records, to_write_R, strict=True):
            if number < 0:
                continue
            if number != shard and videos:
                tasks.append(ShardTask(self.paths[shard], tuple(videos)))
                videos = []
            shard = number
            videos.append(Video(record.sha256, record.uri, record.frames_expected))
        if videos:
            tasks.append(ShardTask(self.paths[shard], tuple(videos)))
        return tasks


def cut_into_shards(frames: Sequence[int], shard_frames: int) -> list[int]:
    """Returns the ends of shards of at least `shard_frames` promised frames (the last may have fewer).

    Videos end_n to end_n+1 - 1 are shard n + 1.
    """
    ends, num_frames = [], 0
    for number, more in enumerate(frames, start=1):
        num_frames += more
        if num_frames >= shard_frames:
            ends.append(number)
            num_frames = 0
    return ends if not len(frames) or (ends and ends[-1] == len(frames)) else [*ends, len(frames)]


def make_plan(
    uri: str,
    store_uri: str,
    fingerprint: str,
    rows: RecordTable,
    *,
    shard_frames: int,
    look_at_rejected: bool = False,
) -> ShardPlan:
    """Returns the plan written down in the directory `uri`, or a new one, which is written there.

    look_at_rejected: a new plan has all rejected videos again, also those whose bytes were the reason.
    """
    stored = _find_stored(store_uri, fingerprint, rows, look_at_rejected)
    plan = _read(join(uri, PLAN_FILE), rows, stored)
    if plan is None:
        plan = _new(rows, stored, directory(fingerprint), shard_frames)
        _write(join(uri, PLAN_FILE), plan)
    return plan


@dataclass(frozen=True)
class _StoredShards:
    """The videos of an index that complete shards of an extractor hold."""

    paths: tuple[str, ...]
    """Shards that no other one replaces, sorted."""
    replaced: frozenset[str]
    shard_R: Codes
    """The first of `paths` that has the video of a row, to be tried no more; -1 where none has."""


def _find_stored(store_uri: str, fingerprint: str, rows: RecordTable, look_at_rejected: bool) -> _StoredShards:
    rows_of_path: dict[str, npt.NDArray[np.int32]] = {}
    replaced: set[str] = set()
    for shard in iter_complete(store_uri, directory(fingerprint)):
        replaced.update(shard.replaces)
        row_U = rows.find(
            digests(
                video
                for video, result in shard.results.items()
                if not result.is_to_try(look_at_rejected=look_at_rejected)
            )
        )
        rows_of_path[shard.path] = row_U[row_U >= 0].astype(np.int32)
    paths = tuple(path for path in rows_of_path if path not in replaced)
    shard_R = np.full(len(rows), -1, np.int32)
    for number in reversed(range(len(paths))):
        shard_R[rows_of_path[paths[number]]] = number
    return _StoredShards(paths, frozenset(replaced), shard_R)


def _new(rows: RecordTable, stored: _StoredShards, folder: str, shard_frames: int) -> ShardPlan:
    missing = np.flatnonzero(rows.is_video_R & (stored.shard_R < 0))
    shard_R, paths = stored.shard_R.copy(), list(stored.paths)
    ends = cut_into_shards(rows.frames_R[missing].tolist(), shard_frames)
    for first, end in pairwise([0, *ends]):
        part = missing[first:end]
        shard_R[part] = len(paths)
        paths.append(f"{folder}/{shard_name(hex_digits(rows.digest_R[part]))}.parquet")
    return ShardPlan(rows, tuple(paths), shard_R, stored.shard_R >= 0)


def _write(uri: str, plan: ShardPlan) -> None:
    video_V = plan.rows.videos
    used, shard_V = np.unique(plan.shard_R[video_V], return_inverse=True)
    shards = pa.DictionaryArray.from_arrays(
        shard_V.astype(np.int32), pa.array([plan.paths[n] for n in used], pa.string())
    )
    columns = {
        "video": hex_column(plan.rows.digest_R[video_V]),
        "shard": shards,
        "is_stored": plan.is_stored_R[video_V],
    }
    with open_atomic(uri) as file:
        pq.write_table(pa.table(columns), file)


def _read(uri: str, rows: RecordTable, stored: _StoredShards) -> ShardPlan | None:
    """Reads a plan from before; returns None where it no longer holds.

    It holds while the videos are the same, the shards that it counts on are there, and none that it made was
    rewritten.
    """
    if not exists(uri):
        return None
    table = read_table(read_bytes(uri))
    digest_V, video_V = digests(table["video"].to_pylist()), rows.videos
    if not np.array_equal(digest_V, rows.digest_R[video_V]):
        return None
    shards = pa.chunked_array(table["shard"].chunks, DICTIONARY).unify_dictionaries().combine_chunks()
    paths = tuple(shards.dictionary.to_pylist())
    shard_R, is_stored_R = np.full(len(rows), -1, np.int32), np.zeros(len(rows), np.bool_)
    shard_R[video_V] = shards.indices.to_numpy()
    is_stored_R[video_V] = table["is_stored"].to_numpy()
    counted_on = {paths[number] for number in np.unique(shard_R[is_stored_R])}
    made = {paths[number] for number in np.unique(shard_R[video_V[~is_stored_R[video_V]]])}
    if not counted_on <= set(stored.paths) or made & stored.replaced:
        return None
    return ShardPlan(rows, paths, shard_R, is_stored_R)


@dataclass
class ResultTable:
    """The results of the extraction of each video of an index."""

    rows: RecordTable
    reasons: dict[tuple[str, str], int] = field(default_factory=dict)
    """Verdicts and reasons that there were."""
    counts_R4: npt.NDArray[np.int64] = field(init=False)
    """Frames expected, decoded, dropped, missing."""
    reason_R: Codes = field(init=False)
    """Place in `reasons`; -1 where nothing is known of a row."""

    def __post_init__(self) -> None:
        self.counts_R4 = np.zeros((len(self.rows), 4), np.int64)
        self.reason_R = np.full(len(self.rows), -1, np.int32)

    def add(self, row: int, result: VideoResult) -> None:
        """Adds the result of the video of a row."""
        self.counts_R4[row] = (
            result.frames_expected,
            result.frames_decoded,
            result.frames_dropped,
            result.frames_missing,
        )
        self.reason_R[row] = self.reasons.setdefault((result.verdict, result.reason), len(self.reasons))

    def ledger(
        self, records: Iterable[VideoRecord], takedowns: Mapping[str, Takedown] | None = None
    ) -> Iterator[VideoRecord]:
        """Yields the rows of the index with their final counts and verdicts. `records` are those of the index."""
        row_R = self.rows.find(self.rows.digest_R)
        reasons = list(self.reasons)
        for record, row in zip(records, row_R, strict=True):
            result = None
            if row >= 0 and self.reason_R[row] >= 0:
                verdict, reason = reasons[self.reason_R[row]]
                expected, decoded, dropped, missing = self.counts_R4[row].tolist()
                result = VideoResult(
                    frames_expected=expected,
                    frames_decoded=decoded,
                    frames_dropped=dropped,
                    frames_missing=missing,
                    verdict=verdict,
                    reason=reason,
                )
            yield _ledger_row(record, result, takedowns or {})


def collect_results(
    store_uri: str, plan: ShardPlan, takedowns: Iterable[str] = ()
) -> tuple[Sequence[ShardReference], ResultTable]:
    """Collects the shards with rows of the plan's videos, sorted by path, and the result of each video.

    Videos that were taken down are left out.
    """
    wanted_R = plan.shard_R.copy()
    taken_down_U = plan.rows.find(digests(takedowns))
    wanted_R[taken_down_U[taken_down_U >= 0]] = -1
    numbers = np.unique(wanted_R[wanted_R >= 0]).tolist()
    for _ in range(ATTEMPTS):
        place = _where_now(store_uri, [plan.paths[number] for number in numbers])
        current: dict[str, list[int]] = {}
        for number in numbers:
            current.setdefault(place[plan.paths[number]], []).append(number)
        references: DiskList[ShardReference] = DiskList()
        account = ResultTable(plan.rows)
        for shard in iter_shards(store_uri, sorted(current)):
            reference = _collect_shard(shard, account, wanted_R, current.pop(shard.path))
            if reference.videos:
                references.append(reference)
        if not current:
            return references, account
    raise AssertionError(f"{next(iter(current))} is not complete")


def _collect_shard(shard: Shard, account: ResultTable, wanted_R: Codes, numbers: Sequence[int]) -> ShardReference:
    """Collects one shard. `numbers`: the plan's shards that this one is, or took the place of."""
    row_U = account.rows.find(digests(shard.results))
    is_taken_U = (row_U >= 0) & np.isin(wanted_R[row_U], numbers)
    videos: set[str] = set()
    for (video, result), row, is_taken in zip(shard.results.items(), row_U, is_taken_U, strict=True):
        if is_taken:
            account.add(row, result)
            if result.frames_decoded:
                videos.add(video)
    return reference_to(shard, videos)


def _where_now(store_uri: str, paths: Sequence[str]) -> dict[str, str]:
    """Returns path -> path of the shard there, or of the one that replaced it while the extraction ran."""
    if not paths:
        return {}
    folder = paths[0].rpartition("/")[0]
    there = {f"{folder}/{name}" for name in list_files(join(store_uri, folder))}
    now = {path: path for path in paths if sidecar(path) in there}
    if len(now) < len(paths):
        replaced_by = replacements(store_uri, folder)
        now |= {path: replaced_by[path] for path in paths if path not in now and path in replaced_by}
    absent = [path for path in paths if path not in now]
    assert not absent, f"{absent[0]} is not complete"
    return now


def _ledger_row(record: VideoRecord, result: VideoResult | None, takedowns: Mapping[str, Takedown]) -> VideoRecord:
    """Returns the row of an index with its final counts and verdict."""
    if record.sha256 in takedowns:
        result = takedown_result(record.frames_expected, takedowns[record.sha256])
    elif result is None:
        result = rejected(record.frames_expected, record.reason, final=True)
    fields = result.ledger_fields()
    if not result.reason and record.verdict == "ok":
        # What ingest noted of a sound video (the same bytes as another one) holds still.
        fields["reason"] = record.reason
    return replace(record, **fields)
