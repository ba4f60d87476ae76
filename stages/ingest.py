"""ingest: any folder, glob, manifest or bucket of videos becomes an index: content hash, what it is, a verdict.

    index = ingest(IngestConfig(videos=("clips/",)), context)

A video that cannot be used is a row with the verdict `rejected` and a reason, never an error.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.files import join, list_files, remove, sha256_bytes
from pipeline.stage import Context, Estimate, stage
from stages.costs import BYTES_PER_FRAME, DECODED_FRAMES_PER_S, PROBED_VIDEOS_PER_S
from stages.datasets.sequences import hold_out
from stages.percepts.ledger import VideoRecord, read_records, write_records
from stages.video import watchdog
from stages.video.apart import Apart, DiedApart
from stages.video.artifacts import INDEX_NAME, Corpus, Index
from stages.video.container import Limits
from stages.video.probe import Probe, probe
from stages.video.sources import VideoSource, list_videos, local_video, snapshot

FILES_A_SHARD = 32
"""Few enough that a killed run repeats little, many enough that handing out shards costs nothing."""

HASH_BYTES = 1 << 20

INDEX_BYTES_A_VIDEO = 100
"""Of `index.parquet`, about."""

Shard = tuple[VideoSource, ...]


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What to index, and the limits beyond which a video is rejected."""

    videos: tuple[str, ...] = ()
    """Folders, globs, video files, manifests (.txt, .csv, .jsonl, .parquet) or bucket URLs, besides the corpus that a
    stage before may have made."""
    part: str = "unlabelled"
    """Part of the videos whose manifest names none, or that come without one."""
    held_out: float = 0.0
    """Share of those videos, in whole groups, that goes to part `held_out_part` instead; 0: none."""
    held_out_part: str = "test"
    """Part of the videos that are held out."""
    max_pixels: int = Limits.max_pixels
    """Largest frame, width x height."""
    max_duration_s: float = Limits.max_duration_s
    """Longest video, seconds."""
    max_frames: int = Limits.max_frames
    """Most frames of a video."""

    def __post_init__(self) -> None:
        _ = self.limits
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it is a share of the videos: give 0 <= held_out < 1")
        if self.held_out and self.held_out_part == self.part:
            raise ConfigError(f"held_out_part is {self.part!r}, as is the part of the others: name another")

    @property
    def limits(self) -> Limits:
        """The limits as the video room takes them. Raises ConfigError."""
        return Limits(max_pixels=self.max_pixels, max_duration_s=self.max_duration_s, max_frames=self.max_frames)


def source_snapshot(config: IngestConfig) -> str | None:
    """Digest of the source's listing; None where the videos come from a corpus of the store. Raises SourceError."""
    return snapshot(config.videos) if config.videos else None


def _estimate(config: IngestConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    corpus = inputs.get("corpus", Estimate())
    unpacked_bytes = inputs.get("unpacked", Estimate()).num_bytes or 0
    listed = list_videos(config.videos) if config.videos else []
    num_bytes = unpacked_bytes + sum(source.size_bytes or 0 for source in listed)
    num_frames = (corpus.num_frames or 0) + num_bytes // BYTES_PER_FRAME
    return Estimate(
        num_frames=num_frames,
        num_bytes=INDEX_BYTES_A_VIDEO * len(listed) or None,
        seconds=len(listed) / PROBED_VIDEOS_PER_S + num_frames / DECODED_FRAMES_PER_S / 10,
    )


@stage(version=1, snapshot=source_snapshot, estimate=_estimate)
def ingest(
    config: IngestConfig, context: Context, *, corpus: Corpus | None = None, unpacked: Corpus | None = None
) -> Index:
    """Hash and probe every video of the sources: a corpus that a stage made, what was unpacked, `config.videos`.

    Raises:
        ConfigError: none of them was given.
        SourceError: the source does not exist or holds no videos.
        ConfigError: also where videos are to be held out, and all that are usable make up a single group.
    """
    made = tuple(source.manifest_uri for source in (corpus, unpacked) if source is not None)
    places = made + config.videos
    if not places:
        raise ConfigError("ingest was given neither videos nor a corpus; give --videos, or connect a corpus")
    listed = list_videos(places)
    sources = [replace(source, part=source.part or config.part) for source in listed]
    records = _note_duplicates(_probe_all(sources, config, context))
    if config.held_out:
        records = _hold_out(records, [source.part is None for source in listed], config)
    write_records(join(context.uri, INDEX_NAME), records, store_uri=context.store_uri)
    remove(join(context.uri, "parts"))
    _record_facts(records, context)
    return Index(context.uri, context.key)


def _probe_all(sources: Sequence[VideoSource], config: IngestConfig, context: Context) -> list[VideoRecord]:
    """One record a source, in the order of the sources, over the workers; what an earlier attempt left is used."""
    shards = [tuple(sources[i : i + FILES_A_SHARD]) for i in range(0, len(sources), FILES_A_SHARD)]
    parts = [join(context.uri, "parts", f"{_digest(shard, config)}.parquet") for shard in shards]
    there = set(list_files(join(context.uri, "parts")))
    done = {i: read_records(part) for i, part in enumerate(parts) if part.rpartition("/")[2] in there}
    num_done = sum(map(len, done.values()))

    def keep(shard: int, records: list[VideoRecord]) -> None:
        nonlocal num_done
        write_records(parts[shard], records, store_uri=context.store_uri)
        done[shard] = records
        num_done += len(records)
        context.progress(num_done, len(sources), "videos")

    missing = [i for i in range(len(shards)) if i not in done]
    results = context.workers.map(
        partial(_prober, config.limits, context.workers.replaces_workers),
        [_Work(shards[i]) for i in missing],
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        again=partial(replace, apart=True),
    )
    for position, records in results:
        keep(missing[position], records)
    return [record for i in range(len(shards)) for record in done[i]]


@dataclass(frozen=True)
class _Work:
    """What a worker does at a time."""

    shard: Shard
    apart: bool = False
    """Probe in a process apart: a worker died on this shard, and one of its videos may be to blame."""

    def __str__(self) -> str:
        return f"the videos from {self.shard[0].uri} to {self.shard[-1].uri}"


def _prober(limits: Limits, may_end: bool) -> Callable[[_Work], list[VideoRecord]]:
    """What a worker does with its work. `may_end`: its process may be ended where a video hangs."""
    if may_end:
        watchdog.arm(limits.max_stall_s, limits.max_memory_bytes)

    def work(work: _Work) -> list[VideoRecord]:
        if not work.apart:
            return [probe_source(source, limits) for source in work.shard]
        with Apart(limits) as apart:
            return [probe_source(source, limits, partial(_probe_apart, apart)) for source in work.shard]

    return work


def _probe_apart(apart: Apart, path: Path, limits: Limits) -> Probe:
    try:
        return apart.call(probe, path, limits)
    except DiedApart as death:
        return Probe(verdict="rejected", reason=str(death))


def probe_source(source: VideoSource, limits: Limits, probe: Callable[[Path, Limits], Probe] = probe) -> VideoRecord:
    """Hash and probe one video; whatever is wrong with it ends up in the record."""
    rejected = partial(_record, source, sha256="", size_bytes=source.size_bytes or 0, verdict="rejected")
    try:
        source.uri.encode()
    except UnicodeEncodeError:
        uri = source.uri.encode("utf-8", "backslashreplace").decode()
        return replace(rejected(reason="its name is not UTF-8; rename it"), uri=uri)
    try:
        with local_video(source.uri) as path:
            digest = hashlib.sha256()
            size_bytes = 0
            with open(path, "rb") as file:
                while piece := file.read(HASH_BYTES):
                    digest.update(piece)
                    size_bytes += len(piece)
            found = probe(path, limits)
    except FileNotFoundError:
        return rejected(reason="there is no such file")
    except OSError as error:
        return rejected(reason=f"cannot be read: {error.strerror or error}")
    return _record(
        source,
        sha256=digest.hexdigest(),
        size_bytes=size_bytes,
        container=found.container,
        codec=found.codec,
        pixel_format=found.pixel_format,
        width=found.width,
        height=found.height,
        rotation_degrees=found.rotation_degrees,
        fps=found.fps,
        duration_us=found.duration_us,
        frames_expected=found.frames_expected,
        verdict=found.verdict,
        reason=found.reason,
    )


def _record(source: VideoSource, **facts: Any) -> VideoRecord:
    return VideoRecord(uri=source.uri, label=source.label, part=source.part, group=source.group, **facts)


def _note_duplicates(records: Sequence[VideoRecord]) -> list[VideoRecord]:
    """The records, those that repeat earlier bytes saying so: percepts are kept by content, so nothing counts twice."""
    first: dict[str, str] = {}
    noted = []
    for record in records:
        original = first.setdefault(record.sha256, record.uri) if record.sha256 else record.uri
        if original != record.uri:
            same = f"same bytes as {posixpath.basename(original)}"
            record = replace(record, reason=f"{record.reason}; {same}" if record.reason else same)
        noted.append(record)
    return noted


def _hold_out(records: Sequence[VideoRecord], has_no_part: Sequence[bool], config: IngestConfig) -> list[VideoRecord]:
    """The records, some of those whose part is ours to choose put aside: by a hash of group or content."""
    free = [free and record.verdict != "rejected" for record, free in zip(records, has_no_part, strict=True)]
    _, out = hold_out(list(compress(records, free)), portion=config.held_out, seed=0)
    aside = set(out)
    return [
        replace(record, part=config.held_out_part) if is_free and record.sha256 in aside else record
        for record, is_free in zip(records, free, strict=True)
    ]


def _record_facts(records: Sequence[VideoRecord], context: Context) -> None:
    unique = {record.sha256 or record.uri: record for record in records}.values()
    usable = [record for record in unique if record.verdict != "rejected"]
    context.record(
        num_videos=len(records),
        num_duplicates=len(records) - len(unique),
        num_rejected=sum(record.verdict == "rejected" for record in unique),
        num_frames=sum(record.frames_expected for record in usable),
        num_bytes=sum(record.size_bytes for record in unique),
        seconds_of_video=round(sum(record.duration_us or 0 for record in usable) / 1e6, 3),
    )


def _digest(shard: Shard, config: IngestConfig) -> str:
    """Names a shard's part file: another listing or other limits give another name."""
    return sha256_bytes(json.dumps([[asdict(source) for source in shard], asdict(config.limits)]).encode())[:16]
