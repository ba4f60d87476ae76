"""The shards of a store: files of percepts, which of them are complete, and what replaced which.

    <store>/percepts/<fingerprint, 16 digits>/<shard>.parquet    rows of some videos
    <store>/percepts/<fingerprint, 16 digits>/<shard>.json       what is in it: written last, so it is complete

Shards are shared by every artifact whose index holds their videos; an artifact's own directory names the shards that
it used when it was made in `shards.json`, and is never touched again. A shard that is rewritten (many merged into one,
or a video taken out) becomes another shard, whose sidecar names those that it `replaces`: with that one write the old
ones are out of use, and `locate` leads to the new one.
"""

import errno
import itertools
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import exists, join, list_files, open_atomic, read_bytes, read_many, sha256_bytes, write_json
from stages.video.ledger import Verdict

SHARDS_FILE: Final = "shards.json"
PERCEPTS: Final = "percepts"
"""The directory of all shards, below the store's root."""
LEDGER_FILE: Final = "ledger.parquet"
SIDECARS_AT_A_TIME: Final = 64
DIGITS: Final = 16
"""Hex digits of a digest in a file's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoResult:
    """The result of extracting one video: the part of its ledger row that its bytes decide."""

    frames_expected: int
    frames_decoded: int
    frames_dropped: int
    frames_missing: int
    verdict: Verdict
    reason: str
    final: bool = True
    """False where not the video's bytes are to blame (it could not be read, say): another artifact tries again."""

    def is_to_try(self, *, look_at_rejected: bool) -> bool:
        """Returns whether the video is extracted again, where another artifact needs it."""
        return not self.final or (look_at_rejected and self.verdict == "rejected")

    def ledger_fields(self) -> dict[str, Any]:
        """Returns the fields for `dataclasses.replace(record, ...)`."""
        return {name: value for name, value in asdict(self).items() if name != "final"}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A complete shard: the contents of its sidecar."""

    path: str
    """Relative to the store's root."""
    sha256: str
    bytes: int
    rows: int
    results: dict[str, VideoResult]
    """By sha256 of the video, in the order of the rows; rejected videos have no rows."""
    replaces: tuple[str, ...] = ()
    """Paths of shards that this one took the place of, sorted; they may be gone."""


@dataclass(frozen=True, kw_only=True)
class ShardReference:
    """A shard as an artifact uses it: one entry of `shards.json`."""

    path: str
    """Relative to the store's root."""
    sha256: str
    bytes: int
    rows: int
    videos: tuple[str, ...]
    """sha256 of the videos that this artifact takes from the shard, in the order of the rows."""


def shard_name(videos: Sequence[str]) -> str:
    """Returns 16 hex digits that stand for these videos in this order."""
    return sha256_bytes("\n".join(videos).encode())[:DIGITS]


def directory(fingerprint: str) -> str:
    """Returns the directory of an extractor's shards, relative to the store's root."""
    return f"{PERCEPTS}/{fingerprint[:DIGITS]}"


def folders(store_uri: str) -> list[str]:
    """Returns the directories of shards, one an extractor, relative to the store's root."""
    names = list_files(join(store_uri, PERCEPTS))
    return sorted({f"{PERCEPTS}/{name.partition('/')[0]}" for name in names if "/" in name})


def write_sidecar(store_uri: str, shard: Shard) -> None:
    """Declares a shard complete, and those that it replaces out of use. Its Parquet file must be there."""
    value = asdict(shard)
    # The name in the file is that of the first version.
    value["outcomes"] = value.pop("results")
    if not shard.replaces:
        del value["replaces"]
    # JSON objects have no order of their own; `videos` keeps that of the rows.
    write_json(join(store_uri, sidecar(shard.path)), {**value, "videos": list(shard.results)})


def parse_sidecar(data: bytes) -> Shard:
    """Parses a sidecar. Raises ValueError, KeyError or TypeError where the bytes are something else."""
    value = json.loads(data)
    videos, results = value.pop("videos"), value.pop("outcomes")
    replaces = tuple(value.pop("replaces", ()))
    return Shard(**value, results={video: VideoResult(**results[video]) for video in videos}, replaces=replaces)


def read_shards(store_uri: str, paths: Iterable[str]) -> dict[str, Shard]:
    """Reads the complete shards among `paths` (relative to the store), in that order. Raises as `iter_shards`."""
    return {shard.path: shard for shard in iter_shards(store_uri, paths)}


def iter_shards(store_uri: str, paths: Iterable[str]) -> Iterator[Shard]:
    """Yields the complete shards among `paths`, read many at a time, but not all.

    Raises:
        CorruptArtifact: a sidecar is damaged.
    """
    remaining = iter(paths)
    while batch := list(itertools.islice(remaining, SIDECARS_AT_A_TIME)):
        uris = {path: join(store_uri, sidecar(path)) for path in batch}
        sidecars = read_many(list(uris.values()))
        for uri in uris.values():
            if uri in sidecars:
                try:
                    yield parse_sidecar(sidecars.pop(uri))
                except (ValueError, KeyError, TypeError) as error:
                    repair = f"percepts verify --repair --store {store_uri}"
                    raise CorruptArtifact(
                        f"{uri} is not the sidecar of a shard ({error}); mend it: {repair}"
                    ) from error


def iter_complete(store_uri: str, folder: str) -> Iterator[Shard]:
    """Yields every complete shard in a directory, replaced ones too, sorted by path. Raises CorruptArtifact."""
    names = [name for name in list_files(join(store_uri, folder)) if name.endswith(".json")]
    return iter_shards(store_uri, [f"{folder}/{name.removesuffix('.json')}.parquet" for name in names])


def iter_in_use(store_uri: str, folder: str) -> Iterator[Shard]:
    """Yields the shards that no other one replaces, read twice to save memory. Raises CorruptArtifact."""
    replaces = {shard.path: shard.replaces for shard in iter_complete(store_uri, folder)}
    return iter_shards(store_uri, in_use(replaces))


def in_use(replaces: Mapping[str, Iterable[str]]) -> list[str]:
    """Returns the paths of shards that none of the others replaces."""
    replaced = {old for olds in replaces.values() for old in olds}
    return [path for path in replaces if path not in replaced]


def replacements(store_uri: str, folder: str) -> dict[str, str]:
    """Returns path of a replaced shard -> path of the one in use that took its place. Raises CorruptArtifact."""
    replaces = {shard.path: shard.replaces for shard in iter_complete(store_uri, folder)}
    return {old: path for path in in_use(replaces) for old in replaces[path]}


def locate(
    store_uri: str, references: Sequence[ShardReference], taken_down: Container[str] = ()
) -> list[ShardReference]:
    """Returns the same videos, without those that were taken down, where they lie now, sorted by path.

    Raises:
        CorruptArtifact: a shard or a video is gone, and nothing says why.
    """
    if not references:
        return []
    folder = references[0].path.rpartition("/")[0]
    present = {f"{folder}/{name}" for name in list_files(join(store_uri, folder))}
    current = {reference.path: reference for reference in references if reference.path in present}
    moved: dict[str, set[str]] = {}
    if len(current) < len(references):
        replaced_by = replacements(store_uri, folder)
        for reference in references:
            if reference.path not in current:
                if reference.path not in replaced_by:
                    raise _gone(reference.path, store_uri)
                moved.setdefault(replaced_by[reference.path], set()).update(reference.videos)
    for shard in iter_shards(store_uri, list(moved)):
        wanted = moved.pop(shard.path).union(current[shard.path].videos if shard.path in current else ())
        if any(video not in shard.results and video not in taken_down for video in wanted):
            raise _gone(f"a video of {shard.path}", store_uri)
        current[shard.path] = reference_to(shard, wanted)
    if moved:
        # It was there a moment ago: opening the store looks again.
        raise FileNotFoundError(errno.ENOENT, "replaced meanwhile", next(iter(moved)))
    located = (replace(current[path], videos=_without(current[path].videos, taken_down)) for path in sorted(current))
    return [reference for reference in located if reference.videos]


def _without(videos: tuple[str, ...], taken_down: Container[str]) -> tuple[str, ...]:
    return tuple(video for video in videos if video not in taken_down)


def _gone(what: str, store_uri: str) -> CorruptArtifact:
    repair = f"percepts verify --repair --store {store_uri}"
    return CorruptArtifact(f"{what} is gone from {store_uri}: {repair}, then run the recipe again")


def reference_to(shard: Shard, wanted: Container[str]) -> ShardReference:
    """Returns a reference to some videos of a shard, in the order of its rows."""
    videos = tuple(video for video in shard.results if video in wanted)
    return ShardReference(path=shard.path, sha256=shard.sha256, bytes=shard.bytes, rows=shard.rows, videos=videos)


def sidecar(path: str) -> str:
    """Returns the path of the sidecar of the shard at `path`."""
    return path.removesuffix(".parquet") + ".json"


def write_references(artifact_uri: str, references: Iterable[ShardReference]) -> None:
    """Writes `shards.json`, one entry after the other."""
    with open_atomic(join(artifact_uri, SHARDS_FILE)) as file:
        before = "["
        for reference in references:
            entry = json.dumps(asdict(reference), indent=1, sort_keys=True, ensure_ascii=False)
            file.write((before + "\n " + entry.replace("\n", "\n ")).encode())
            before = ","
        file.write(b"\n]\n" if before == "," else b"[]\n")


def read_references(artifact_uri: str) -> list[ShardReference]:
    """Returns the shards that an artifact uses. Raises FileNotFoundError."""
    return list(iter_references(artifact_uri))


def iter_references(artifact_uri: str) -> Iterator[ShardReference]:
    """Yields the shards that an artifact uses; in memory is the file's text. Raises FileNotFoundError."""
    text = read_bytes(join(artifact_uri, SHARDS_FILE)).decode()
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        entry, end = decoder.raw_decode(text, start)
        yield ShardReference(**{**entry, "videos": tuple(entry["videos"])})
        start = text.find("{", end)


def store_root(artifact_uri: str, references: Sequence[ShardReference]) -> str:
    """Returns the root of the shards' paths: the nearest directory above the artifact that holds theirs.

    Raises:
        CorruptArtifact: there is none.
    """
    folder = references[0].path.rpartition("/")[0]
    root = artifact_uri.rstrip("/")
    while "/" in root.removeprefix("/") and not root.endswith(":/"):
        root = root.rsplit("/", 1)[0]
        if exists(join(root, folder)):
            return root
    raise CorruptArtifact(f"no directory above {artifact_uri} holds {folder}; run the recipe again")
