"""Where percepts lie in a store, and which of them are complete.

    <store>/percepts/<fingerprint, 16 digits>/<shard>.parquet    rows of some videos
    <store>/percepts/<fingerprint, 16 digits>/<shard>.json       what is in it: written last, so it is complete

Shards are shared by every artifact whose index holds their videos; an artifact's own directory names the shards that
it used when it was made in `shards.json`, and is never touched again. A shard that is rewritten (many merged into one,
or a video taken out) becomes another shard, whose sidecar names those that it `replaces`: with that one write the old
ones are out of use, and whoever looks for them is led to the new one (`locate`).
"""

import json
from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from pipeline.errors import CorruptArtifact
from pipeline.files import exists, join, list_files, read_json, read_many, sha256_bytes, write_json
from stages.percepts.ledger import Verdict

SHARDS_FILE: Final = "shards.json"
PERCEPTS: Final = "percepts"
"""The directory of all shards, below the store's root."""
LEDGER_FILE: Final = "ledger.parquet"
DIGITS: Final = 16
"""Hex digits of a digest in a file's name."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the extraction of one video ended: the part of its ledger row that its bytes decide."""

    frames_expected: int
    frames_decoded: int
    frames_dropped: int
    frames_missing: int
    verdict: Verdict
    reason: str
    final: bool = True
    """False where not the video's bytes are to blame (it could not be read, say): another artifact tries again."""

    def ledger_fields(self) -> dict[str, Any]:
        """What `dataclasses.replace(record, ...)` takes."""
        return {name: value for name, value in asdict(self).items() if name != "final"}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A complete shard: the contents of its sidecar."""

    path: str
    """Relative to the store's root."""
    sha256: str
    bytes: int
    rows: int
    outcomes: dict[str, Outcome]
    """By sha256 of the video, in the order of the rows; rejected videos have no rows."""
    replaces: tuple[str, ...] = ()
    """Paths of shards that this one took the place of, sorted; they may be gone."""


@dataclass(frozen=True, kw_only=True)
class ShardUse:
    """A shard as an artifact uses it: one entry of `shards.json`."""

    path: str
    """Relative to the store's root."""
    sha256: str
    bytes: int
    rows: int
    videos: tuple[str, ...]
    """sha256 of the videos that this artifact takes from the shard, in the order of the rows."""


def shard_name(videos: Sequence[str]) -> str:
    """16 hex digits that stand for these videos in this order."""
    return sha256_bytes("\n".join(videos).encode())[:DIGITS]


def directory(fingerprint: str) -> str:
    """Of an extractor's shards, relative to the store's root."""
    return f"{PERCEPTS}/{fingerprint[:DIGITS]}"


def folders(store_uri: str) -> list[str]:
    """Directories of shards, one an extractor, relative to the store's root."""
    names = list_files(join(store_uri, PERCEPTS))
    return sorted({f"{PERCEPTS}/{name.partition('/')[0]}" for name in names if "/" in name})


def write_sidecar(store_uri: str, shard: Shard) -> None:
    """Declare a shard complete, and those that it replaces out of use. Its Parquet file must be there."""
    value = asdict(shard)
    if not shard.replaces:
        del value["replaces"]
    # JSON objects have no order of their own; `videos` keeps that of the rows.
    write_json(join(store_uri, sidecar(shard.path)), {**value, "videos": list(shard.outcomes)})


def parse_sidecar(data: bytes) -> Shard:
    """What `write_sidecar` wrote. Raises ValueError, KeyError or TypeError where it is something else."""
    value = json.loads(data)
    videos, outcomes = value.pop("videos"), value.pop("outcomes")
    replaces = tuple(value.pop("replaces", ()))
    return Shard(**value, outcomes={video: Outcome(**outcomes[video]) for video in videos}, replaces=replaces)


def read_shards(store_uri: str, paths: Iterable[str]) -> dict[str, Shard]:
    """The complete ones of the shards at `paths` (relative to the store), in that order, read many at a time.

    Raises:
        CorruptArtifact: a sidecar is damaged.
    """
    uris = {path: join(store_uri, sidecar(path)) for path in paths}
    found = read_many(list(uris.values()))
    shards = {}
    for path, uri in uris.items():
        if uri in found:
            try:
                shards[path] = parse_sidecar(found[uri])
            except (ValueError, KeyError, TypeError) as error:
                repair = f"python -m pipeline.verify --repair --store {store_uri}"
                raise CorruptArtifact(f"{uri} is not the sidecar of a shard ({error}); mend it: {repair}") from error
    return shards


def complete_shards(store_uri: str, fingerprint: str) -> list[Shard]:
    """Every complete shard of an extractor that no other one replaces, sorted by path. Raises CorruptArtifact."""
    return in_use(shards_below(store_uri, directory(fingerprint)))


def shards_below(store_uri: str, folder: str) -> list[Shard]:
    """Every complete shard in a directory of the store, replaced ones too, sorted by path. Raises CorruptArtifact."""
    names = [name for name in list_files(join(store_uri, folder)) if name.endswith(".json")]
    return list(read_shards(store_uri, [f"{folder}/{name.removesuffix('.json')}.parquet" for name in names]).values())


def in_use(shards: Sequence[Shard]) -> list[Shard]:
    """Those that none of the others replaces."""
    replaced = {path for shard in shards for path in shard.replaces}
    return [shard for shard in shards if shard.path not in replaced]


def locate(store_uri: str, uses: Sequence[ShardUse], taken_down: Container[str] = ()) -> list[ShardUse]:
    """The same videos but those that were taken down, where they lie now, sorted by path.

    Raises:
        CorruptArtifact: a shard or a video is gone, and nothing says why.
    """
    wanted = [(use, [video for video in use.videos if video not in taken_down]) for use in uses]
    folder = uses[0].path.rpartition("/")[0] if uses else ""
    present = {f"{folder}/{name}" for name in list_files(join(store_uri, folder))} if uses else set()
    by_path: dict[str, Shard] = {}
    if any(use.path not in present for use in uses):
        shards = in_use(shards_below(store_uri, folder))
        by_path = {shard.path: shard for shard in shards}
        by_path |= {old: shard for shard in shards for old in shard.replaces if old not in present}
    now: dict[str, ShardUse] = {}
    for use, videos in wanted:
        shard = by_path.get(use.path)
        if shard is None and use.path in present:
            now[use.path] = replace(use, videos=tuple(videos))
        elif shard is None or not shard.outcomes.keys() >= set(videos):
            what = use.path if shard is None else f"a video of {use.path}"
            repair = f"python -m pipeline.verify --repair --store {store_uri}"
            raise CorruptArtifact(f"{what} is gone from {store_uri}: {repair}, then run the recipe again")
        else:
            both = {*videos, *(now[shard.path].videos if shard.path in now else ())}
            now[shard.path] = use_of(shard, both)
    return [now[path] for path in sorted(now) if now[path].videos]


def use_of(shard: Shard, wanted: Container[str]) -> ShardUse:
    """Some videos of a shard, in the order of its rows."""
    videos = tuple(video for video in shard.outcomes if video in wanted)
    return ShardUse(path=shard.path, sha256=shard.sha256, bytes=shard.bytes, rows=shard.rows, videos=videos)


def sidecar(path: str) -> str:
    """The path of the sidecar of the shard at `path`."""
    return path.removesuffix(".parquet") + ".json"


def write_uses(artifact_uri: str, uses: Iterable[ShardUse]) -> None:
    """Write `shards.json`."""
    write_json(join(artifact_uri, SHARDS_FILE), [asdict(use) for use in uses])


def read_uses(artifact_uri: str) -> list[ShardUse]:
    """The shards that an artifact uses. Raises FileNotFoundError."""
    entries = read_json(join(artifact_uri, SHARDS_FILE))
    return [ShardUse(**{**entry, "videos": tuple(entry["videos"])}) for entry in entries]


def store_root(artifact_uri: str, uses: Sequence[ShardUse]) -> str:
    """The root that the shards' paths are relative to: the nearest directory above the artifact that holds theirs.

    Raises:
        CorruptArtifact: there is none.
    """
    folder = uses[0].path.rpartition("/")[0]
    root = artifact_uri.rstrip("/")
    while "/" in root.removeprefix("/") and not root.endswith(":/"):
        root = root.rsplit("/", 1)[0]
        if exists(join(root, folder)):
            return root
    raise CorruptArtifact(f"no directory above {artifact_uri} holds {folder}; run the recipe again")
