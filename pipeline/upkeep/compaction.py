"""Compaction of shards: many small ones into one, or one without videos that were taken down. No percept changes.

The new shard is written, read back and recorded before an old one goes. Killed at any moment, nothing is lost: either
the old shards are complete, or the new one is and says that it replaces them; `remove_replaced` then takes up the rest.

Shapes: N rows of a video, D percept dimension.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import HashingFile, is_local, join, list_files, open_atomic, remove, sha256_file
from stages.percepts.memory_map import Percepts
from stages.percepts.node_cache import NodeCache, RemoteFile
from stages.percepts.schema import ROW_GROUP_ROWS
from stages.percepts.shard_file import FrameColumns, ShardFile, ShardLocation, Spans
from stages.percepts.shards import (
    Shard,
    VideoResult,
    folders,
    in_use,
    iter_complete,
    iter_in_use,
    iter_shards,
    read_shards,
    shard_name,
    sidecar,
    write_sidecar,
)
from stages.percepts.writer import ShardWriter
from stages.video.record_table import digests


@dataclass(frozen=True, kw_only=True)
class Merge:
    """A group of shards that becomes, or became, one."""

    fingerprint: str
    """The first digits of the extractor's fingerprint, as in the store."""
    num_shards: int
    num_videos: int
    num_rows: int
    bytes_before: int
    bytes_after: int | None
    """The size of the new shard; None in a plan."""
    path: str | None
    """Path of the new shard, relative to the store; None in a plan."""


def groups_of_store(store_uri: str, *, min_bytes: int, max_bytes: int) -> list[tuple[str, ...]]:
    """Returns the groups to merge of all extractors, as paths of their shards. Raises CorruptArtifact."""
    groups: list[tuple[str, ...]] = []
    for folder in folders(store_uri):
        groups += merge_groups(iter_in_use(store_uri, folder), min_bytes=min_bytes, max_bytes=max_bytes)
    return groups


def compact(store_uri: str, groups: Sequence[Sequence[str]], *, is_plan: bool = False) -> Iterator[Merge]:
    """Merges groups of shards, one after the other, and yields what was done; with `is_plan`, what would be.

    Raises:
        CorruptArtifact: a shard is damaged; what was merged before stays merged.
    """
    for folder in [] if is_plan else folders(store_uri):
        remove_replaced(store_uri, folder)
    for paths in groups:
        merge = _planned(store_uri, paths)
        if not is_plan:
            written = rewrite(store_uri, list(read_shards(store_uri, paths).values()))
            merge = replace(merge, num_rows=written.rows, bytes_after=written.bytes, path=written.path)
        yield merge


def _planned(store_uri: str, paths: Sequence[str]) -> Merge:
    num_rows = bytes_before = 0
    videos = []
    for shard in iter_shards(store_uri, paths):
        num_rows += shard.rows
        bytes_before += shard.bytes
        videos.append(digests(shard.results))
    return Merge(
        fingerprint=paths[0].split("/")[-2],
        num_shards=len(paths),
        num_videos=len(np.unique(np.concatenate(videos))),
        num_rows=num_rows,
        bytes_before=bytes_before,
        bytes_after=None,
        path=None,
    )


def merge_groups(shards: Iterable[Shard], *, min_bytes: int, max_bytes: int) -> list[tuple[str, ...]]:
    """Groups shards smaller than `min_bytes`, in their order, two or more that stay below `max_bytes` together.

    A group is the paths of its shards. A shard with a video that is to be tried again is left alone: the shard that the
    next attempt writes may have its name, and must not be taken for one that was replaced.
    """
    groups: list[list[str]] = []
    num_bytes = max_bytes
    for shard in shards:
        if shard.bytes >= min_bytes or not all(result.final for result in shard.results.values()):
            continue
        if num_bytes + shard.bytes > max_bytes:
            groups.append([])
            num_bytes = 0
        groups[-1].append(shard.path)
        num_bytes += shard.bytes
    return [tuple(group) for group in groups if len(group) > 1]


def rewrite(store_uri: str, sources: Sequence[Shard], *, leave_out: Container[str] = ()) -> Shard:
    """Writes one shard with the videos of all `sources` but those of `leave_out`, and removes the sources.

    Every content is written once.

    Raises:
        CorruptArtifact: a source is not what its sidecar says, or what was written does not read back the same.
    """
    chosen: dict[str, Shard] = {}
    for source in sources:
        for video, result in source.results.items():
            if video not in leave_out and (video not in chosen or _is_better(result, chosen[video].results[video])):
                chosen[video] = source
    name = shard_name(["rewritten", *(source.path for source in sources), *chosen])
    path = f"{sources[0].path.rpartition('/')[0]}/{name}.parquet"
    cache = NodeCache.of_environment()
    opened = {source.path: _open(store_uri, source, cache) for source in sources}
    extractor = opened[sources[0].path][0].extractor
    row_digests: dict[str, str] = {}
    with open_atomic(join(store_uri, path)) as target:
        file = HashingFile(target)
        compression = extractor.settings.get("compression", "none")
        with ShardWriter(file, extractor, compression=compression) as writer:  # type: ignore[arg-type]
            for video, source in chosen.items():
                if source.results[video].frames_decoded:
                    row_digests[video] = _copy(video, *opened[source.path], writer)
    shard = Shard(
        path=path,
        sha256=file.digest.hexdigest(),
        bytes=file.num_bytes,
        rows=writer.num_rows,
        results={video: source.results[video] for video, source in chosen.items()},
        replaces=tuple(sorted({old for source in sources for old in (source.path, *source.replaces)})),
    )
    _check(*_open(store_uri, shard, NodeCache.of_environment()), row_digests, path)
    write_sidecar(store_uri, shard)
    for source in sources:
        remove_shard(store_uri, source.path)
    return shard


def remove_replaced(store_uri: str, folder: str) -> int:
    """Removes replaced shards that a killed rewriting left behind; returns their bytes.

    Raises:
        CorruptArtifact: a sidecar is damaged.
    """
    num_bytes, replaces = {}, {}
    for shard in iter_complete(store_uri, folder):
        num_bytes[shard.path], replaces[shard.path] = shard.bytes, shard.replaces
    replaced = {old for path in in_use(replaces) for old in replaces[path]}
    # A Parquet file without its sidecar, too: of the two the sidecar goes first.
    left = [path for name in list_files(join(store_uri, folder)) if (path := f"{folder}/{name}") in replaced]
    for path in left:
        remove_shard(store_uri, path)
    return sum(num_bytes.get(path, 0) for path in left)


def remove_shard(store_uri: str, path: str) -> None:
    """Removes a shard: first the sidecar, so that it is never complete without its rows."""
    remove(join(store_uri, sidecar(path)))
    remove(join(store_uri, path))


def _is_better(result: VideoResult, than: VideoResult) -> bool:
    return (result.frames_decoded > 0, result.final) > (than.frames_decoded > 0, than.final)


def _open(store_uri: str, shard: Shard, cache: NodeCache) -> tuple[ShardFile, Spans]:
    uri = join(store_uri, shard.path)
    repair = f"percepts verify --repair --store {store_uri}"
    damaged = CorruptArtifact(f"{uri} is not what its sidecar says; mend the store first: {repair}")
    if is_local(uri):
        if sha256_file(uri) != shard.sha256:
            raise damaged
        return ShardFile.open(ShardLocation(uri), cache)
    try:
        return ShardFile.open(ShardLocation(uri), cache, cache.fetch(RemoteFile(uri, shard.bytes, shard.sha256)))
    except CorruptArtifact as error:
        raise damaged from error


def _pieces(file: ShardFile, first: int, end: int) -> Iterator[tuple[FrameColumns, Percepts]]:
    """Yields a row group's worth of rows at a time."""
    for start in range(first, end, ROW_GROUP_ROWS):
        stop = min(end, start + ROW_GROUP_ROWS)
        yield file.rows(start, stop), file.percepts.slice(start, stop)


def _copy(video: str, file: ShardFile, spans: Spans, writer: ShardWriter) -> str:
    """Appends the rows of a video; returns their digest."""
    for rows, percepts_ND in _pieces(file, *spans[video]):
        writer.write(video, rows.frame_N, rows.pts_us_N, rows.segment_N, percepts_ND)
    return _digest(file, *spans[video])


def _digest(file: ShardFile, first: int, end: int) -> str:
    digest = hashlib.sha256()
    for rows, percepts_ND in _pieces(file, first, end):
        for column_N in (rows.frame_N, rows.pts_us_N, rows.segment_N, percepts_ND):
            digest.update(column_N.tobytes())
    return digest.hexdigest()


def _check(written: ShardFile, spans: Spans, digests: dict[str, str], path: str) -> None:
    for video, digest in digests.items():
        if video not in spans or _digest(written, *spans[video]) != digest:
            raise CorruptArtifact(f"{path} does not read back as it was written; the shards it was made of are kept")
