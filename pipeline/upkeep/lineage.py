"""Who had seen a video: the artifacts made of it, directly or through others, their runs, and the models they logged.

An index names a video, an extraction has seen it if its ledger counts frames of it, and whatever else was made of an
artifact that had seen it has seen it too: except through an index or an extraction, which show nobody a video that has
been taken down, from that moment on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pipeline.core.files import absolute, exists, filesystem, join, sha256_file
from pipeline.engine.store import MANIFEST, Manifest, Store
from stages.percepts.shards import LEDGER_FILE, folders, iter_in_use
from stages.percepts.takedowns import Takedown, read_takedowns
from stages.video.artifacts import INDEX_NAME
from stages.video.ledger import VideoRecord, iter_records

if TYPE_CHECKING:  # MLflow takes seconds to import
    from pipeline.engine.tracking import TrackedRun

KEY: Final = re.compile(r"[a-z0-9.-]+-[0-9a-f]{16}")
"""What the directory of an artifact is called."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An artifact that names a video, holds it, or was made of it."""

    stage: str
    key: str
    name: str
    """The stage's name in its recipe; empty where the artifact is gone."""
    recipe: str
    remains: str
    """What is still to be done about it."""
    is_removable: bool
    """Whether it holds something of the video that another run would make anew without it."""
    runs: tuple[TrackedRun, ...] = field(default=())


REMAINS: Final = {
    "ingest": ("nothing: it names the video; take the file out of the source, or it stays listed as rejected", False),
    "extract": ("nothing: readers leave the video out", True),
    "synthesize": ("delete the video's file in it", False),
    "unpack": ("delete the video's file that it unpacked, and the archive", False),
    "cut": ("delete: it holds pixels of the video", True),
}
GUARDED: Final = ("gather", "ingest", "split", "extract", "synthesize", "unpack")
"""Stages whose artifacts show nobody a video that has been taken down."""
OTHERWISE: Final = ("make it again without the video, or delete it: --remove-artifacts", True)


def sightings(
    store: Store, video: str, before: Takedown | None, tracking_uri: str | None
) -> tuple[list[Sighting], list[str]]:
    """Every artifact that had seen a video (by sha256), those that an earlier takedown of it named among them, parents
    first; and artifacts without a manifest, as stage/key, of which nobody can say.

    Raises:
        UsageError: MLflow does not answer at `tracking_uri` (None: it is not asked).
    """
    manifests = {f"{m.stage}/{m.key}": m for m in store.manifests()}
    at = datetime.fromisoformat(before.at) if before else datetime.now(UTC)
    seen = _seen(list(manifests.values()), _direct(store, list(manifests.values()), video), at)
    names = dict.fromkeys([*seen, *(before.seen_by if before else ())])
    runs: list[TrackedRun] = []
    if tracking_uri is not None and names:
        from pipeline.engine.tracking import runs_of

        runs = runs_of(tracking_uri, {name.partition("/")[2] for name in names})
    found = []
    for name in names:
        mine = [run for run in runs if run.key == name.partition("/")[2]]
        if name not in seen:
            mine = [run for run in mine if datetime.fromisoformat(run.started_at) <= at]
        found.append(_sighting(name, manifests.get(name), name in seen, mine))
    return found, [name for name in _directories(store) if name not in manifests and name not in names]


def _sighting(name: str, manifest: Manifest | None, is_here: bool, runs: Sequence[TrackedRun]) -> Sighting:
    stage, _, key = name.partition("/")
    remains, is_removable = REMAINS.get(stage, OTHERWISE)
    if not is_here:
        since = "it was made again since, without the video" if manifest else "it is gone from the store"
        remains, is_removable = f"nothing: {since}", manifest is None
    return Sighting(
        stage=stage,
        key=key,
        name=manifest.name if manifest else "",
        recipe=manifest.recipe if manifest else "",
        remains=remains,
        is_removable=is_removable,
        runs=tuple(runs),
    )


def _direct(store: Store, manifests: Sequence[Manifest], video: str) -> set[str]:
    """Keys of indexes that name the video, of extractions that have frames of it, and of corpora that hold its file."""
    keys = set()
    for manifest, records in _indexes(store, manifests):
        mine = [record for record in records if record.sha256 == video and record.frames_decoded != 0]
        if mine:
            keys.add(manifest.key)
        for record in mine:
            inside = _stored(store, record.uri).split("/")
            if record.uri.startswith(f"{store.root}/") and len(inside) > 2:
                keys.add(inside[1])
    return keys


def _indexes(store: Store, manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, Iterator[VideoRecord]]]:
    """Artifacts that list videos, of whatever stage."""
    for manifest in manifests:
        for name in (INDEX_NAME, LEDGER_FILE):
            if name in manifest.outputs:
                yield manifest, iter_records(join(store.directory(manifest.stage, manifest.key), name))


def _seen(manifests: Sequence[Manifest], direct: Collection[str], at: datetime) -> dict[str, Manifest]:
    """stage/key -> manifest of the artifacts that had seen the video, parents first."""
    seen = {m.key: m for m in manifests if m.key in direct}
    grown = True
    while grown:
        new = {m.key: m for m in manifests if m.key not in seen and _has_seen(m, seen, at)}
        seen |= new
        grown = bool(new)
    return {f"{m.stage}/{m.key}": m for m in sorted(seen.values(), key=lambda m: m.finished_at)}


def _has_seen(manifest: Manifest, seen: Mapping[str, Manifest], at: datetime) -> bool:
    """Whether one of the inputs showed it the video."""
    if manifest.stage in GUARDED:
        return False  # their own lists are the authority
    parents = [seen[key] for key in manifest.input_keys() if key in seen]
    began = datetime.fromisoformat(manifest.finished_at) - timedelta(seconds=manifest.seconds)
    return any(parent.stage not in GUARDED or began <= at for parent in parents)


def _directories(store: Store) -> list[str]:
    fs, root = filesystem(store.root)
    found = [str(path).rstrip("/").split("/")[-2:] for path in fs.glob(join(root, "*", "*"))]
    names = [f"{stage}/{key}" for stage, key in found if KEY.fullmatch(key) and stage != "ray-train"]
    return [name for name in names if not exists(join(store.root, name, MANIFEST))]


def _records(store: Store) -> Iterator[VideoRecord]:
    """The rows of all indexes and ledgers, one after the other."""
    for _, records in _indexes(store, list(store.manifests())):
        yield from records


def video_uris(store: Store, video: str) -> set[str]:
    """Where the store's indexes say that the video lies."""
    return {_stored(store, record.uri) for record in _records(store) if record.sha256 == video}


def _stored(store: Store, uri: str) -> str:
    return uri.removeprefix(f"{store.root}/")


def digests_of(store: Store, given: str) -> set[str]:
    """sha256 of the videos of the store that a file, a URI or a sha256 stands for."""
    if _knows(store, given):
        return {given}
    uris = {given, absolute(given)}
    by_uri = {
        record.sha256
        for record in _records(store)
        if record.sha256 and (record.uri in uris or _stored(store, record.uri) == given)
    }
    by_uri |= {t.video for t in read_takedowns(store.root).values() if uris & set(t.uris)}
    if by_uri or not exists(given) or filesystem(given)[0].isdir(filesystem(given)[1]):
        return by_uri
    digest = sha256_file(given)
    return {digest} if _knows(store, digest) else set()


def _knows(store: Store, video: str) -> bool:
    """Whether anything of the store is about the video with this sha256."""
    return bool(video) and (
        video in read_takedowns(store.root)
        or any(record.sha256 == video for record in _records(store))
        or any(video in shard.outcomes for folder in folders(store.root) for shard in iter_in_use(store.root, folder))
    )
