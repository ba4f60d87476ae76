"""Which shards an extraction uses and which it writes, and the account at its end. No decoding here.

The plan is a pure function of the index and of what the store holds when the run begins; it is written down before any
work, so that a run that was killed goes on as it began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.files import exists, join, read_json, write_json
from stages.percepts.decode_ahead import Video, rejected
from stages.percepts.extraction import ShardTask
from stages.percepts.ledger import VideoRecord
from stages.percepts.shards import Outcome, Shard, ShardUse, complete_shards, directory, read_sidecar, shard_name

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Plan:
    """What an extraction has and what it makes."""

    held: Mapping[str, str]
    """Video -> path of the complete shard of the store that holds it already."""
    tasks: tuple[ShardTask, ...]
    """Shards to write, for all other videos."""

    @property
    def holders(self) -> dict[str, str]:
        """Video -> path of its shard, held or to be written."""
        return {**self.held, **{video.sha256: task.path for task in self.tasks for video in task.videos}}


def usable_videos(records: Sequence[VideoRecord]) -> list[Video]:
    """Videos that ingest did not reject, each content once, in the order of the index."""
    usable = [record for record in records if record.sha256 and record.verdict != "rejected"]
    unique = {record.sha256: record for record in reversed(usable)}
    ordered = [unique[sha256] for sha256 in dict.fromkeys(record.sha256 for record in usable)]
    return [Video(record.sha256, record.uri, record.frames_expected) for record in ordered]


def plan_shards(videos: Sequence[Video], shard_frames: int) -> list[tuple[Video, ...]]:
    """Videos in their order, cut into shards of at least `shard_frames` promised frames (the last may have fewer)."""
    shards: list[tuple[Video, ...]] = []
    current: list[Video] = []
    for video in videos:
        current.append(video)
        if sum(member.frames_expected for member in current) >= shard_frames:
            shards.append(tuple(current))
            current = []
    return [*shards, tuple(current)] if current else shards


def make_plan(uri: str, store_uri: str, fingerprint: str, videos: Sequence[Video], *, shard_frames: int) -> Plan:
    """The plan written down in the directory `uri`, or a new one, which is written there."""
    by_sha256 = {video.sha256: video for video in videos}
    plan = _read(join(uri, PLAN_FILE), store_uri)
    if plan is None:
        held = _held(store_uri, fingerprint, by_sha256)
        missing = [video for video in videos if video.sha256 not in held]
        shards = [[video.sha256 for video in shard] for shard in plan_shards(missing, shard_frames)]
        plan = held, shards
        write_json(join(uri, PLAN_FILE), {"held": held, "shards": shards})
    held, shards = plan
    tasks = []
    for names in shards:
        path = f"{directory(fingerprint)}/{shard_name(names)}.parquet"
        tasks.append(ShardTask(path, tuple(by_sha256[sha256] for sha256 in names)))
    return Plan(held, tuple(tasks))


def _held(store_uri: str, fingerprint: str, wanted: Mapping[str, Video]) -> dict[str, str]:
    held: dict[str, str] = {}
    for shard in complete_shards(store_uri, fingerprint):
        for video, outcome in shard.outcomes.items():
            if outcome.final and video in wanted:
                held.setdefault(video, shard.path)
    return held


def _read(plan_uri: str, store_uri: str) -> tuple[dict[str, str], list[list[str]]] | None:
    """A plan from before, unless a shard that it counts on has gone."""
    if not exists(plan_uri):
        return None
    plan = read_json(plan_uri)
    if any(read_sidecar(store_uri, path) is None for path in set(plan["held"].values())):
        return None
    return plan["held"], plan["shards"]


def settle(
    store_uri: str, videos: Sequence[Video], holders: Mapping[str, str]
) -> tuple[list[ShardUse], dict[str, Outcome]]:
    """Shards with rows of these videos, sorted by path, and the outcome of every video."""
    shards: dict[str, Shard] = {}
    for path in sorted({holders[video.sha256] for video in videos}):
        shard = read_sidecar(store_uri, path)
        assert shard is not None, f"{path} is not complete"
        shards[path] = shard
    wanted = {video.sha256 for video in videos}
    uses: list[ShardUse] = []
    outcomes: dict[str, Outcome] = {}
    for path, shard in shards.items():
        mine = {
            video: outcome for video, outcome in shard.outcomes.items() if video in wanted and holders[video] == path
        }
        outcomes |= mine
        used = tuple(video for video, outcome in mine.items() if outcome.frames_decoded)
        if used:
            uses.append(ShardUse(path=path, sha256=shard.sha256, bytes=shard.bytes, rows=shard.rows, videos=used))
    return uses, outcomes


def ledger_row(record: VideoRecord, outcomes: Mapping[str, Outcome]) -> VideoRecord:
    """The row of an index with its final counts and verdict."""
    outcome = outcomes.get(record.sha256)
    if outcome is None:
        outcome = rejected(record.frames_expected, record.reason, final=True)
    fields = outcome.ledger_fields()
    if not outcome.reason and record.verdict == "ok":
        # What ingest noted of a sound video (the same bytes as another one) holds still.
        fields["reason"] = record.reason
    return replace(record, **fields)
