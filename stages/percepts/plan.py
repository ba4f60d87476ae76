"""Which shards an extraction uses and which it writes, and the account at its end. No decoding here.

The plan is a pure function of the index and of what the store holds when the run begins; it is written down before any
work, so that a run that was killed goes on as it began.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.files import exists, join, read_json, write_json
from stages.percepts.decode_ahead import Video, rejected
from stages.percepts.extraction import ShardTask
from stages.percepts.ledger import VideoRecord
from stages.percepts.shards import (
    Outcome,
    Shard,
    ShardUse,
    complete_shards,
    directory,
    in_use,
    read_shards,
    shard_name,
    shards_below,
    use_of,
)
from stages.percepts.takedowns import Takedown, removed

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


def usable_videos(records: Sequence[VideoRecord], taken_down: Container[str] = ()) -> list[Video]:
    """Videos that ingest did not reject and nobody took down, each content once, in the order of the index."""
    usable = [
        record
        for record in records
        if record.sha256 and record.verdict != "rejected" and record.sha256 not in taken_down
    ]
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
    shards = complete_shards(store_uri, fingerprint)
    plan = _read(join(uri, PLAN_FILE))
    if plan is None or _is_stale(plan, shards, by_sha256):
        held: dict[str, str] = {}
        for shard in shards:
            for video, outcome in shard.outcomes.items():
                if outcome.final and video in by_sha256:
                    held.setdefault(video, shard.path)
        missing = [video for video in videos if video.sha256 not in held]
        plan = held, [[video.sha256 for video in part] for part in plan_shards(missing, shard_frames)]
        write_json(join(uri, PLAN_FILE), {"held": held, "shards": plan[1]})
    tasks = []
    for names in plan[1]:
        path = f"{directory(fingerprint)}/{shard_name(names)}.parquet"
        tasks.append(ShardTask(path, tuple(by_sha256[sha256] for sha256 in names)))
    return Plan(plan[0], tuple(tasks))


_Written = tuple[dict[str, str], list[list[str]]]


def _read(plan_uri: str) -> _Written | None:
    """A plan from before."""
    if not exists(plan_uri):
        return None
    plan = read_json(plan_uri)
    return plan["held"], plan["shards"]


def _is_stale(plan: _Written, shards: Sequence[Shard], wanted: Mapping[str, Video]) -> bool:
    """Whether a shard that the plan counts on has gone, one that it made was rewritten, or a video was taken down."""
    held, parts = plan
    there = {shard.path for shard in shards}
    names = {path.rpartition("/")[2] for shard in shards for path in shard.replaces}
    is_rewritten = any(f"{shard_name(part)}.parquet" in names for part in parts)
    videos = {*held, *(video for part in parts for video in part)}
    return is_rewritten or not there.issuperset(held.values()) or not wanted.keys() >= videos


def settle(
    store_uri: str, videos: Sequence[Video], holders: Mapping[str, str]
) -> tuple[list[ShardUse], dict[str, Outcome]]:
    """Shards with rows of these videos, sorted by path, and the outcome of every video."""
    shards = _where_now(store_uri, sorted({holders[video.sha256] for video in videos}))
    wanted: dict[str, set[str]] = {}
    for video in videos:
        wanted.setdefault(shards[holders[video.sha256]].path, set()).add(video.sha256)
    uses: list[ShardUse] = []
    outcomes: dict[str, Outcome] = {}
    for shard in sorted({shard.path: shard for shard in shards.values()}.values(), key=lambda shard: shard.path):
        mine = {video: outcome for video, outcome in shard.outcomes.items() if video in wanted[shard.path]}
        outcomes |= mine
        use = use_of(shard, {video for video, outcome in mine.items() if outcome.frames_decoded})
        if use.videos:
            uses.append(use)
    return uses, outcomes


def _where_now(store_uri: str, paths: Sequence[str]) -> dict[str, Shard]:
    """Path -> the shard there, or the one that replaced it while the extraction ran."""
    shards = read_shards(store_uri, paths)
    if len(shards) < len(paths):
        current = in_use(shards_below(store_uri, paths[0].rpartition("/")[0]))
        replaced_by = {old: shard for shard in current for old in shard.replaces}
        shards |= {path: replaced_by[path] for path in paths if path in replaced_by}
    absent = [path for path in paths if path not in shards]
    assert not absent, f"{absent[0]} is not complete"
    return shards


def ledger_row(
    record: VideoRecord, outcomes: Mapping[str, Outcome], takedowns: Mapping[str, Takedown] | None = None
) -> VideoRecord:
    """The row of an index with its final counts and verdict."""
    outcome = outcomes.get(record.sha256)
    if takedowns and record.sha256 in takedowns:
        outcome = removed(record.frames_expected, takedowns[record.sha256])
    elif outcome is None:
        outcome = rejected(record.frames_expected, record.reason, final=True)
    fields = outcome.ledger_fields()
    if not outcome.reason and record.verdict == "ok":
        # What ingest noted of a sound video (the same bytes as another one) holds still.
        fields["reason"] = record.reason
    return replace(record, **fields)
