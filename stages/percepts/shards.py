"""Where percepts lie in a store, and which of them are complete.

    <store>/percepts/<fingerprint, 16 digits>/<shard>.parquet    rows of some videos
    <store>/percepts/<fingerprint, 16 digits>/<shard>.json       what is in it: written last, so it is complete

Shards are shared by every artifact whose index holds their videos; an artifact's own directory names the shards that
it uses in `shards.json`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipeline.errors import CorruptArtifact
from pipeline.files import exists, join, list_files, read_json, sha256_bytes, write_json
from stages.percepts.ledger import Verdict

SHARDS_FILE: Final = "shards.json"
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
    return f"percepts/{fingerprint[:DIGITS]}"


def write_sidecar(store_uri: str, shard: Shard) -> None:
    """Declare a shard complete. Its Parquet file must be there."""
    # JSON objects have no order of their own; `videos` keeps that of the rows.
    write_json(join(store_uri, _sidecar(shard.path)), {**asdict(shard), "videos": list(shard.outcomes)})


def read_sidecar(store_uri: str, path: str) -> Shard | None:
    """The shard at `path` (relative to the store) if it is complete, else None."""
    uri = join(store_uri, _sidecar(path))
    if not exists(uri):
        return None
    value = read_json(uri)
    videos, outcomes = value.pop("videos"), value.pop("outcomes")
    return Shard(**value, outcomes={video: Outcome(**outcomes[video]) for video in videos})


def complete_shards(store_uri: str, fingerprint: str) -> list[Shard]:
    """Every complete shard of an extractor, sorted by path."""
    found = list_files(join(store_uri, directory(fingerprint)))
    names = [name.removesuffix(".json") for name in found if name.endswith(".json")]
    shards = [read_sidecar(store_uri, f"{directory(fingerprint)}/{name}.parquet") for name in names]
    return [shard for shard in shards if shard is not None]


def _sidecar(path: str) -> str:
    return path.removesuffix(".parquet") + ".json"


def write_uses(artifact_uri: str, uses: Iterable[ShardUse]) -> None:
    """Write `shards.json`."""
    write_json(join(artifact_uri, SHARDS_FILE), [asdict(use) for use in uses])


def read_uses(artifact_uri: str) -> list[ShardUse]:
    """The shards that an artifact uses. Raises FileNotFoundError."""
    entries = read_json(join(artifact_uri, SHARDS_FILE))
    return [ShardUse(**{**entry, "videos": tuple(entry["videos"])}) for entry in entries]


def store_root(artifact_uri: str, uses: Sequence[ShardUse]) -> str:
    """The root that the shards' paths are relative to: the nearest directory above the artifact that holds them.

    Raises:
        CorruptArtifact: a shard is missing.
    """
    root = artifact_uri.rstrip("/")
    while "/" in root.removeprefix("/") and not root.endswith(":/"):
        root = root.rsplit("/", 1)[0]
        if all(exists(join(root, use.path)) for use in uses[:1]):
            return root
    raise CorruptArtifact(f"no directory above {artifact_uri} holds {uses[0].path}; run the recipe again")
