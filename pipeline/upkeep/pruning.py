"""Pruning of a store: artifacts that no kept run, alias or newer artifact needs, and percepts that no list names.

Kept are, of each name of runs, the plans of the newest successful runs and of everything that ran since; artifacts
whose models have an alias; and whatever these were made of. Percepts stay as long as an index or ledger that is kept
lists one of their videos, whatever extractor made them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cluster.run_records import SUCCEEDED, RunRecord
from pipeline.core.files import join, list_directories, list_states
from pipeline.engine.store import Manifest, Store
from pipeline.upkeep.compaction import remove_shard
from pipeline.upkeep.inventory import iter_listings
from stages.percepts.shards import folders, iter_complete


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """An artifact that nothing needs any more."""

    stage: str
    key: str
    recipe: str
    name: str
    """The stage's name in its recipe."""
    finished_at: str
    """UTC, ISO 8601; empty where it was not finished."""
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class UnlistedShard:
    """A shard of percepts whose videos are in no list that is kept."""

    path: str
    """Path of the shard, relative to the store's root."""
    num_videos: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """An account of what a pruning removes, and of what stays."""

    artifacts: tuple[Unneeded, ...]
    """The artifacts to remove, by recipe, the newest first."""
    shards: tuple[UnlistedShard, ...]
    num_artifacts_kept: int
    bytes_kept: int
    """Bytes of the artifacts and shards that stay."""

    @property
    def num_bytes(self) -> int:
        """Bytes of everything that goes."""
        return sum(a.num_bytes for a in self.artifacts) + sum(shard.num_bytes for shard in self.shards)


def plan_pruning(store: Store, records: Sequence[RunRecord], aliased: Collection[str], keep: int) -> Pruning:
    """Returns what can go if the newest `keep` successful runs of each name stay; changes nothing.

    Args:
        records: the records of all runs, the oldest first.
        aliased: keys of artifacts whose models have an alias.
        keep: at least 1; runs of equal plans count once.

    Raises:
        CorruptArtifact: a manifest, ledger or sidecar is damaged.
    """
    manifests = {manifest.key: manifest for manifest in store.manifests()}
    kept_records = _kept_records(records, keep)
    wanted = {name.partition("/")[2] for record in kept_records for name in record.artifacts}
    wanted |= {*aliased, *_newest_unrecorded(manifests.values(), records, kept_records, keep)}
    kept = _with_inputs(manifests, wanted)
    unneeded = [
        Unneeded(
            stage=manifest.stage,
            key=manifest.key,
            recipe=manifest.recipe,
            name=manifest.name,
            finished_at=manifest.finished_at,
            num_bytes=manifest.num_bytes,
        )
        for manifest in manifests.values()
        if manifest.key not in kept
    ]
    unneeded += _unfinished(store, [record for record in records if record not in kept_records], {*manifests, *wanted})
    unneeded.sort(key=lambda artifact: artifact.finished_at, reverse=True)
    unneeded.sort(key=lambda artifact: artifact.recipe)
    shards, bytes_of_shards = _unlisted_shards(store, [manifests[key] for key in kept])
    return Pruning(
        artifacts=tuple(unneeded),
        shards=tuple(shards),
        num_artifacts_kept=len(kept),
        bytes_kept=sum(manifests[key].num_bytes for key in kept) + bytes_of_shards,
    )


def prune(store: Store, pruning: Pruning) -> None:
    """Removes what the plan names. Killed at any moment, what is left is whole, and is named by the next plan."""
    # The newest first: none is left that was made of one that is gone.
    for artifact in sorted(pruning.artifacts, key=lambda artifact: artifact.finished_at, reverse=True):
        store.remove(artifact.stage, artifact.key)
    for shard in pruning.shards:
        remove_shard(store.root, shard.path)


def _kept_records(records: Sequence[RunRecord], keep: int) -> list[RunRecord]:
    """Returns the records of the newest `keep` plans of each name that succeeded, and of every run since."""
    succeeded: defaultdict[str, set[str]] = defaultdict(set)
    kept = []
    for record in reversed(records):
        plans = succeeded[record.name]
        if len(plans) < keep or record.plan in plans:
            kept.append(record)
            if record.status == SUCCEEDED:
                plans.add(record.plan)
    return kept


def _newest_unrecorded(
    manifests: Iterable[Manifest], records: Sequence[RunRecord], kept_records: Sequence[RunRecord], keep: int
) -> list[str]:
    """Returns keys of artifacts that no record names, as those of version 0.1: as many as runs lack to `keep`."""
    recorded = {name.partition("/")[2] for record in records for name in record.artifacts}
    plans = {(record.recipe, record.name, record.plan) for record in kept_records if record.status == SUCCEEDED}
    num_plans = Counter(recipe for recipe, _, _ in plans)
    by_name: defaultdict[tuple[str, str], list[Manifest]] = defaultdict(list)
    for manifest in manifests:
        if manifest.key not in recorded:
            by_name[manifest.recipe, manifest.name].append(manifest)
    newest = []
    for (recipe, _), unrecorded in by_name.items():
        unrecorded.sort(key=lambda manifest: manifest.finished_at, reverse=True)
        newest += [manifest.key for manifest in unrecorded[: max(0, keep - num_plans[recipe])]]
    return newest


def _unfinished(store: Store, old_records: Iterable[RunRecord], others: Collection[str]) -> list[Unneeded]:
    """Returns what runs that are not kept began and did not finish, or what a pruning was killed over."""
    recipes = {name: record.recipe for record in old_records for name in record.artifacts}
    unfinished = []
    for stage in sorted({name.partition("/")[0] for name in recipes}):
        for key in list_directories(join(store.root, stage)):
            if key not in others and (recipe := recipes.get(f"{stage}/{key}")) is not None:
                num_bytes = sum(state.num_bytes for state in list_states(store.directory(stage, key)).values())
                unfinished.append(
                    Unneeded(
                        stage=stage, key=key, recipe=recipe, name="unfinished", finished_at="", num_bytes=num_bytes
                    )
                )
    return unfinished


def _with_inputs(manifests: dict[str, Manifest], wanted: Iterable[str]) -> set[str]:
    """Returns those of the keys that are in the store, and all that they were made of."""
    kept: set[str] = set()
    waiting = [key for key in wanted if key in manifests]
    while waiting:
        key = waiting.pop()
        if key not in kept:
            kept.add(key)
            waiting += [parent for parent in manifests[key].input_keys() if parent in manifests]
    return kept


def _unlisted_shards(store: Store, kept: Sequence[Manifest]) -> tuple[list[UnlistedShard], int]:
    """Returns the shards without a listed video, and the bytes of the others."""
    listed = {record.sha256 for _, records in iter_listings(store, kept) for record in records}
    unlisted, bytes_kept = [], 0
    for folder in folders(store.root):
        for shard in iter_complete(store.root, folder):
            if listed.isdisjoint(shard.results):
                unlisted.append(UnlistedShard(path=shard.path, num_videos=len(shard.results), num_bytes=shard.bytes))
            else:
                bytes_kept += shard.bytes
    return unlisted, bytes_kept
