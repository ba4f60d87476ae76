"""Takedown of a video: its percepts leave the store, no run makes them again, and all that was made of it is named.

In this order: the takedown is written down, and from then on readers leave the video out and runs reject it; every
shard that holds it, of whatever extractor, is rewritten without it; MLflow's runs and models that had seen it are
tagged. Killed half-way, it is done again from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.core.errors import UsageError
from pipeline.core.files import exists, is_local, join
from pipeline.engine.store import Store
from pipeline.upkeep.compaction import remove_replaced, rewrite
from pipeline.upkeep.lineage import LineageEntry, digests_of, lineage, video_uris
from stages.percepts.shards import Shard, folders, iter_in_use
from stages.percepts.takedowns import Takedown, read_takedowns, write_takedown


@dataclass(frozen=True, kw_only=True)
class TakedownReport:
    """An account of what a takedown did, or would do."""

    video: str
    """The sha256 of the video's bytes."""
    uris: tuple[str, ...]
    is_plan: bool
    shards: tuple[str, ...]
    """Paths of shards that held the video."""
    num_rows: int
    """The number of percepts that were removed."""
    bytes_rewritten: int
    lineage: tuple[LineageEntry, ...]
    """The artifacts that were made of the video, directly or through others."""
    unfinished: tuple[str, ...]
    """Artifacts that no manifest describes: what they were made of is not known."""
    is_tracked: bool
    """True if MLflow was searched for runs and models."""


def take_down(
    store: Store,
    video: str,
    *,
    is_plan: bool = False,
    reason: str = "",
    remove_artifacts: bool = False,
    tracking_uri: str | None = None,
) -> TakedownReport:
    """Takes down a video given by its sha256; with `is_plan`, reports what would be done and changes nothing.

    Raises:
        CorruptArtifact: a shard is damaged; it is still there, and the tombstone too.
        UsageError: MLflow does not answer.
    """
    shards = (shard for folder in folders(store.root) for shard in iter_in_use(store.root, folder))
    with_video = [shard for shard in shards if video in shard.results]
    before = read_takedowns(store.root).get(video)
    tracking_uri = tracking_uri or _own_tracking(store)
    entries, unfinished = lineage(store, video, before, tracking_uri)
    uris = tuple(sorted({*video_uris(store, video), *(before.uris if before else ())}))
    report = TakedownReport(
        video=video,
        uris=uris,
        is_plan=is_plan,
        shards=tuple(shard.path for shard in with_video),
        num_rows=sum(shard.results[video].frames_decoded for shard in with_video),
        bytes_rewritten=sum(shard.bytes for shard in with_video),
        lineage=tuple(entries),
        unfinished=tuple(unfinished),
        is_tracked=tracking_uri is not None,
    )
    if not is_plan:
        at = before.at if before else datetime.now(UTC).isoformat(timespec="seconds")
        names = tuple(f"{entry.stage}/{entry.key}" for entry in entries)
        reason = reason or (before.reason if before else "")
        write_takedown(store.root, Takedown(video=video, at=at, reason=reason, uris=uris, seen_by=names))
        _remove_percepts(store, with_video, video)
        _tag(tracking_uri, entries, video, at)
        for entry in entries if remove_artifacts else ():
            if entry.is_removable:
                store.remove(entry.stage, entry.key)
    return report


def _remove_percepts(store: Store, with_video: Sequence[Shard], video: str) -> None:
    for shard in with_video:
        rewrite(store.root, [shard], leave_out=(video,))
    # What an earlier attempt, or a compaction, was killed before it could remove.
    for folder in folders(store.root):
        remove_replaced(store.root, folder)


def _own_tracking(store: Store) -> str | None:
    has_file = is_local(store.root) and exists(join(store.root, "mlflow.db"))
    return store.default_tracking_uri if has_file else None


def _tag(tracking_uri: str | None, entries: Sequence[LineageEntry], video: str, at: str) -> None:
    runs = [run for entry in entries for run in entry.runs]
    if tracking_uri is not None and runs:
        from pipeline.engine.tracking.runs import tag_runs

        tag_runs(tracking_uri, runs, f"percepts.takedown.{video[:16]}", at)


def resolve_video(store: Store, given: str) -> str:
    """Returns the sha256 of the video that a file, a URI or a sha256 stands for.

    Raises:
        UsageError: the store knows no such video, or several contents under this URI.
    """
    digests = digests_of(store, given)
    if not digests:
        raise UsageError(
            f"store {store.root!r} knows no video {given!r}; give a file, a URI or a sha256 as "
            f"`percepts ledger --store {store.root} --json` lists them"
        )
    if len(digests) > 1:
        raise UsageError(f"{given!r} had several contents; take each down by its sha256: {', '.join(sorted(digests))}")
    return next(iter(digests))
