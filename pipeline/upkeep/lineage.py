"""The lineage of a video: the artifacts made of it, directly or through others, their runs, and the models they logged.

An index names a video, an extraction has seen it if its ledger counts frames of it, and whatever else was made of an
artifact that had seen it has seen it too: except through an artifact that lists its videos, such as an index or an
extraction, which leaves out a video from the moment that it is taken down. What an artifact holds of a video is said by
its class (`Artifact.holds`) and kept in its manifest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pipeline.core.files import absolute, exists, filesystem, join, list_directories, reaching, sha256_file
from pipeline.core.secrets import public
from pipeline.core.stage import Holding
from pipeline.engine.store import MANIFEST, TRAIN_SCRATCH, Manifest, Store
from pipeline.upkeep.inventory import iter_listings
from stages.datasets.artifacts import PATCHES_MANIFEST
from stages.datasets.splits import SPLITS_FILE
from stages.percepts.shards import LEDGER_FILE, folders, iter_in_use
from stages.percepts.takedowns import Takedown, read_takedowns
from stages.video.artifacts import INDEX_NAME, MANIFEST_NAME
from stages.video.ledger import VideoRecord

if TYPE_CHECKING:  # MLflow takes seconds to import
    from pipeline.engine.tracking.runs import TrackedRun

KEY: Final = re.compile(r"[a-z0-9.-]+-[0-9a-f]{16}")
"""Name of the directory of an artifact."""


@dataclass(frozen=True, kw_only=True)
class LineageEntry:
    """An artifact that names a video, holds it, or was made of it."""

    stage: str
    key: str
    name: str
    """The stage's name in its recipe; empty where the artifact is gone."""
    recipe: str
    remains: str
    """Action that is still to be taken."""
    is_removable: bool
    """True if it holds something of the video and another run would make it anew without."""
    runs: tuple[TrackedRun, ...] = field(default=())


REMAINS: Final[dict[Holding, tuple[str, bool]]] = {
    "names": ("nothing: it names the video; take the file out of the source, or it stays listed as rejected", False),
    "files": ("delete the video's file in it, and the archive if it was unpacked from one", False),
    "percepts": ("nothing: readers leave the video out", True),
    "pixels": ("delete: it holds pixels of the video", True),
    "learned": ("make it again without the video, or delete it: --remove-artifacts", True),
}
"""Action that a takedown leaves to be taken, and whether the artifact is removable, by what it holds of the video."""
LISTS_VIDEOS: Final[frozenset[Holding]] = frozenset({"names", "files", "percepts"})
"""Holdings of artifacts that list their videos, and leave out one that has been taken down."""
HOLDING_BY_FILE: Final[dict[str, Holding]] = {
    LEDGER_FILE: "percepts",
    INDEX_NAME: "names",
    SPLITS_FILE: "names",
    MANIFEST_NAME: "files",
    PATCHES_MANIFEST: "pixels",
}


def lineage(
    store: Store, video: str, before: Takedown | None, tracking_uri: str | None
) -> tuple[list[LineageEntry], list[str]]:
    """Returns every artifact that had seen a video (by its sha256), parents first, and those of which it is not known.

    Artifacts that an earlier takedown of the video (`before`) named are among the former. The latter have no manifest,
    and are given as stage/key. No runs are looked up if `tracking_uri` is None.

    Raises:
        UsageError: MLflow does not answer at `tracking_uri`.
    """
    manifests = {f"{m.stage}/{m.key}": m for m in store.manifests()}
    at = datetime.fromisoformat(before.at) if before else datetime.now(UTC)
    seen = _seen(list(manifests.values()), _direct(store, list(manifests.values()), video), at)
    names = dict.fromkeys([*seen, *(before.seen_by if before else ())])
    runs: list[TrackedRun] = []
    if tracking_uri is not None and names:
        from pipeline.engine.tracking.runs import runs_of

        runs = runs_of(tracking_uri, {name.partition("/")[2] for name in names})
    entries = []
    for name in names:
        runs_of_key = [run for run in runs if run.key == name.partition("/")[2]]
        if name not in seen:
            runs_of_key = [run for run in runs_of_key if datetime.fromisoformat(run.started_at) <= at]
        entries.append(_entry(name, manifests.get(name), name in seen, runs_of_key))
    return entries, [name for name in _directories(store) if name not in manifests and name not in names]


def _entry(name: str, manifest: Manifest | None, is_here: bool, runs: Sequence[TrackedRun]) -> LineageEntry:
    stage, _, key = name.partition("/")
    remains, is_removable = REMAINS[holding(manifest)] if manifest else ("", True)
    if not is_here:
        since = "it was made again since, without the video" if manifest else "it is gone from the store"
        remains, is_removable = f"nothing: {since}", manifest is None
    return LineageEntry(
        stage=stage,
        key=key,
        name=manifest.name if manifest else "",
        recipe=manifest.recipe if manifest else "",
        remains=remains,
        is_removable=is_removable,
        runs=tuple(runs),
    )


def holding(manifest: Manifest) -> Holding:
    """Returns what an artifact holds of the videos that it was made of, by its class.

    Manifests of version 0.1 do not say; of those it is known by the files of the artifact.
    """
    if manifest.holds is not None:
        return manifest.holds
    return next((holds for name, holds in HOLDING_BY_FILE.items() if name in manifest.outputs), "learned")


def _direct(store: Store, manifests: Sequence[Manifest], video: str) -> set[str]:
    """Returns keys of indexes that name the video, extractions with frames of it and corpora that hold its file."""
    keys = set()
    for manifest, records in iter_listings(store, manifests):
        of_video = [record for record in records if record.sha256 == video and record.frames_decoded != 0]
        if of_video:
            keys.add(manifest.key)
        for record in of_video:
            inside = _stored(store, record.uri).split("/")
            if record.uri.startswith(f"{store.root}/") and len(inside) > 2:
                keys.add(inside[1])
    return keys


def _seen(manifests: Sequence[Manifest], direct: Collection[str], at: datetime) -> dict[str, Manifest]:
    """Maps stage/key to the manifest of every artifact that had seen the video, parents first."""
    seen = {m.key: m for m in manifests if m.key in direct}
    grown = True
    while grown:
        new = {m.key: m for m in manifests if m.key not in seen and _has_seen(m, seen, at)}
        seen |= new
        grown = bool(new)
    return {f"{m.stage}/{m.key}": m for m in sorted(seen.values(), key=lambda m: m.finished_at)}


def _has_seen(manifest: Manifest, seen: Mapping[str, Manifest], at: datetime) -> bool:
    """Returns True if one of its inputs held the video when it was made."""
    if holding(manifest) in LISTS_VIDEOS:
        return False  # its own list is the authority
    parents = [seen[key] for key in manifest.input_keys() if key in seen]
    began = datetime.fromisoformat(manifest.finished_at) - timedelta(seconds=manifest.seconds)
    return any(holding(parent) not in LISTS_VIDEOS or began <= at for parent in parents)


def _directories(store: Store) -> list[str]:
    stages = [stage for stage in list_directories(store.root) if stage != TRAIN_SCRATCH]
    names = [f"{s}/{key}" for s in stages for key in list_directories(join(store.root, s)) if KEY.fullmatch(key)]
    return [name for name in names if not exists(join(store.root, name, MANIFEST))]


def _records(store: Store) -> Iterator[VideoRecord]:
    """Yields the rows of all indexes and ledgers, one after the other."""
    for _, records in iter_listings(store, list(store.manifests())):
        yield from records


def video_uris(store: Store, video: str) -> set[str]:
    """Returns the URIs that the store's indexes and ledgers give for the video."""
    return {_stored(store, record.uri) for record in _records(store) if record.sha256 == video}


def _stored(store: Store, uri: str) -> str:
    return uri.removeprefix(f"{store.root}/")


def digests_of(store: Store, given: str) -> set[str]:
    """Returns the sha256 of the videos of the store that a file, a URI or a sha256 stands for."""
    if _knows(store, given):
        return {given}
    uris = {given, absolute(given), public(given)}
    by_uri = {
        record.sha256
        for record in _records(store)
        if record.sha256 and (record.uri in uris or _stored(store, record.uri) == given)
    }
    by_uri |= {t.video for t in read_takedowns(store.root).values() if uris & set(t.uris)}
    if by_uri or not exists(given):
        return by_uri
    fs, path = filesystem(given)
    with reaching(given):
        if fs.isdir(path):
            return by_uri
    digest = sha256_file(given)
    return {digest} if _knows(store, digest) else set()


def _knows(store: Store, video: str) -> bool:
    """Returns True if anything of the store is about the video with this sha256."""
    return bool(video) and (
        video in read_takedowns(store.root)
        or any(record.sha256 == video for record in _records(store))
        or any(video in shard.results for folder in folders(store.root) for shard in iter_in_use(store.root, folder))
    )
