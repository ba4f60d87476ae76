"""ingest: any folder, glob, manifest or bucket of videos becomes an index: content hash, what it is, a verdict.

    index = ingest(IngestConfig(videos=("clips/",)), context)

A video that cannot be used is a row with the verdict `rejected` and a reason, never an error. What the listing shows to
be as it was when the store has seen it is not read again (`stages.video.probe_cache`). Where a cause outside its bytes
kept a video from being read, the next run looks at it again, and at no other.

Shapes: N sources.
"""

from __future__ import annotations

import posixpath
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.disk_list import DiskList
from pipeline.core.errors import ConfigError
from pipeline.core.files import join, remove, sha256_bytes
from pipeline.core.numbers import check_numbers
from pipeline.core.rates import BYTES_PER_FRAME, DECODED_FRAMES_PER_S, WORKER_START_S
from pipeline.core.stage import CAME_LATER, Context, Estimate, stage
from stages.datasets.held_out import HELD_OUT_PART, groups_of, held_out
from stages.downloading.artifacts import Downloads
from stages.video import probe_cache
from stages.video.artifacts import INDEX_NAME, NUM_WITHOUT_STAMP, TO_LOOK_AT, Corpus, Index, is_top_of_archive
from stages.video.ledger import COPY_OF, VideoRecord, write_records
from stages.video.limits import Limits
from stages.video.listing import IndexSources, ProbeResults, SourceListing, iter_listed
from stages.video.lists.rows import ListRules, without_query
from stages.video.probe import Probe, probe, probe_source, readable_name
from stages.video.processes import watchdog
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied
from stages.video.sources import VideoSource, iter_videos

FILES_A_SHARD = 32
"""Few enough that a killed run repeats little, many enough that handing out shards costs nothing."""

PARTS = "parts"
"""Directory of what an unfinished run has found."""

DEFAULT_PART = "unlabelled"
"""The part of videos whose manifest names none, or that come without a manifest."""

TRAIN_PART = "train"
"""The part of videos with a label that are not held out, where labelled ones are."""

MAX_NOTES_CHARS = 2000
"""Characters of what is kept in the manifest of what the listing left out."""

INDEX_BYTES_A_VIDEO = 100
"""Bytes of a video in `index.parquet`, about."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """The videos to index, and the limits beyond which one is rejected."""

    videos: tuple[str, ...] = ()
    """Folders, globs, video files, lists (.txt, .csv, .tsv, .jsonl, .json, .parquet) or bucket URLs, besides the corpus
    that a stage before may have made."""
    held_out: float = 0.0
    """The share of the videos without a part, in whole groups, that goes to part test instead of unlabelled."""
    held_out_labelled: float = field(default=0.0, metadata=CAME_LATER)
    """The share of each label's videos without a part, in whole groups, that goes to part test; the others with a label
    go to part train, and those without one to part unlabelled."""
    folder_labels: bool = field(default=False, metadata=CAME_LATER)
    """The label of a video that no list gives one is the name of its folder, as in clips/walking/a.mp4."""
    limits: Limits = field(default_factory=Limits)
    """The bounds beyond which a video is rejected; extract takes the same."""
    list_rules: ListRules = field(default=ListRules(), metadata=CAME_LATER)
    """The addresses that the lines of lists may name."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it is a share of the videos: give 0 <= held_out < 1")
        if not 0 <= self.held_out_labelled < 1:
            raise ConfigError(f"held_out_labelled is {self.held_out_labelled}; it is a share: give 0 to below 1")
        if self.held_out and self.held_out_labelled:
            raise ConfigError("held_out and held_out_labelled both say which videos are of part test: give one")
        check_numbers(self)


def list_sources(config: IngestConfig) -> SourceListing | None:
    """Lists the videos of the config; None where all videos come from stages. Raises SourceError."""
    labels = partial(label_of, config=config) if config.held_out_labelled else None
    return SourceListing(config.videos, config.list_rules, label_of=labels) if config.videos else None


def _estimate(config: IngestConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    corpus, listed = inputs.get("corpus", Estimate()), inputs.get("listing", Estimate())
    unpacked_bytes = inputs.get("unpacked", Estimate()).num_bytes or 0
    num_frames = (corpus.num_frames or 0) + (listed.num_frames or 0) + unpacked_bytes // BYTES_PER_FRAME
    return Estimate(
        num_videos=(corpus.num_videos or 0) + (listed.num_videos or 0) or None,
        num_frames=num_frames,
        num_bytes=INDEX_BYTES_A_VIDEO * (listed.num_videos or 0) or None,
        seconds=WORKER_START_S + (listed.seconds or 0.0) + num_frames / DECODED_FRAMES_PER_S / 10,
        note=listed.note,
    )


@stage(version=2, snapshot=list_sources, estimate=_estimate)
def ingest(
    config: IngestConfig, context: Context, *, corpus: Corpus | None = None, unpacked: Corpus | None = None
) -> Index:
    """Hashes and probes every video of the sources: a corpus of a stage, what was unpacked, `config.videos`.

    Raises:
        ConfigError: none of them was given.
        SourceError: the source does not exist or holds no videos.
        ConfigError: also where videos are to be held out, and all that are usable make up a single group.
    """
    corpora = tuple(source.manifest_uri for source in (corpus, unpacked) if source is not None)
    if not (corpora or config.videos):
        raise ConfigError("ingest was given neither videos nor a corpus; give --videos, or connect a corpus")
    notes: list[str] = []
    listing = IndexSources(_list_all(corpora, config, context, notes), config.limits)
    for note in notes:
        context.log(f"warning: {note}")
    results = _probe_all(listing, config, context, corpus)
    original_N = results.first()
    # Broken files of the same bytes, such as of none, are no copies of one video.
    first_N = np.where(results.is_rejected_N, np.arange(len(listing)), original_N)
    group_of = groups_of(listing, first_N, context)
    is_aside_N = held_out(
        listing,
        results,
        first_N,
        group_of,
        share=config.held_out,
        share_of_labels=config.held_out_labelled,
        label_of=partial(label_of, config=config),
    )
    group_N = (group_of.get(first) for first in first_N.tolist())
    records = _IndexCounter(original_N, _final(listing, results, original_N, group_N, is_aside_N, config))
    write_records(join(context.uri, INDEX_NAME), records, store_uri=context.store_uri)
    _write_probe_cache(listing, results, context)
    remove(join(context.uri, PARTS))
    records.record(context)
    if num_without_stamp := sum(
        "://" in source.uri and not is_cacheable and not source.problem
        for source, is_cacheable in zip(listing.sources, listing.is_cacheable_N, strict=True)
    ):
        context.record(**{NUM_WITHOUT_STAMP: num_without_stamp})
    if notes:
        context.record(left_out="; ".join(notes)[:MAX_NOTES_CHARS])
    return Index(context.uri, context.key)


def _list_all(
    corpora: Sequence[str], config: IngestConfig, context: Context, notes: list[str]
) -> Iterator[tuple[VideoSource, int]]:
    """Yields the videos of the corpora and those of the listing, each with the time at which it was listed.

    notes: gets the sentences on what the listing left out.
    """
    if corpora:
        listed_at_ns = time.time_ns()
        for source in iter_videos(corpora, None):
            yield source, listed_at_ns
    if config.videos:
        yield from iter_listed(context, config.videos, config.list_rules, note=notes.append)


def _probe_all(listing: IndexSources, config: IngestConfig, context: Context, corpus: Corpus | None) -> ProbeResults:
    """Probes over the workers; records of the store's probe cache, or of an earlier attempt, are used."""
    results = ProbeResults(len(listing))
    for place, record in probe_cache.read_cached(join(context.store_uri, probe_cache.PROBE_CACHE), listing.digest_N):
        if listing.is_cacheable_N[place]:
            results.add(place, record, is_new=False)
    for place, record in _known_before(listing, context):
        results.add(place, record, is_new=False)
    if isinstance(corpus, Downloads):
        # They were probed when they came, and may have been extracted and deleted since.
        for place, record in enumerate(corpus.iter_records()):
            if listing.sources[place].uri == record.uri:
                results.add(place, record, is_new=False)
    for place, record in probe_cache.read_cached(join(context.uri, PARTS), listing.digest_N):
        results.add(place, record, is_new=True)
    missing = results.missing()
    parts = [missing[start : start + FILES_A_SHARD] for start in range(0, len(missing), FILES_A_SHARD)]
    num_done = len(listing) - len(missing)
    probed_parts = context.workers.map(
        partial(_prober, config.limits, context.workers.replaces_workers),
        DiskList(_Work(tuple(listing.sources[place] for place in part)) for part in parts),
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        on_retry=partial(replace, isolated=True),
    )
    for number, records in probed_parts:
        keys = [listing.key(place) for place in parts[number]]
        name = f"{sha256_bytes(b''.join(keys))[:16]}.parquet"
        probe_cache.write_cached(join(context.uri, PARTS, name), zip(keys, records, strict=True))
        for place, record in zip(parts[number], records, strict=True):
            results.add(place, record, is_new=True)
        num_done += len(records)
        context.progress(num_done, len(listing), "videos")
    return results


def _known_before(listing: IndexSources, context: Context) -> Iterator[tuple[int, VideoRecord]]:
    """Yields places and records of the index that is looked at again, where they need no second look.

    Where rejected videos are looked at, too, the probe cache alone decides what is read again.
    """
    if context.looked_at_uri is None or context.looks_at_rejected:
        return
    original: dict[str, str] = {}
    records = Index(context.looked_at_uri).iter_records()
    record = next(records, None)
    for place, source in enumerate(listing.sources):
        if record is None or record.uri != readable_name(source.uri):
            continue  # it was taken down since
        first = original.setdefault(record.sha256, record.uri)
        known = replace(record, reason=record.reason.removesuffix(_copy_of(first)).removesuffix("; "))
        is_same_size = source.size_bytes in (None, known.size_bytes)  # a server may have cut it short
        if not known.may_pass and is_same_size:
            yield place, known
        record = next(records, None)


def _write_probe_cache(listing: IndexSources, results: ProbeResults, context: Context) -> None:
    """Writes new records to the probe cache, so that later runs use them; rejected videos are probed again."""
    is_new_N = results.is_new_N & listing.is_cacheable_N & ~results.is_rejected_N
    places = np.flatnonzero(is_new_N).tolist()
    if places:
        name = f"{sha256_bytes(listing.digest_N[is_new_N].tobytes())[:16]}.parquet"
        records = ((listing.key(place), results[place]) for place in places)
        probe_cache.write_cached(join(context.store_uri, probe_cache.PROBE_CACHE, name), records)


@dataclass(frozen=True)
class _Work:
    """The videos that a worker probes at a time."""

    shard: tuple[VideoSource, ...]
    isolated: bool = False
    """Probe in an isolated process: a worker died on this shard, and one of its videos may be to blame."""

    def __str__(self) -> str:
        return f"the videos from {self.shard[0].uri} to {self.shard[-1].uri}"


def _prober(limits: Limits, may_end: bool) -> Callable[[_Work], list[VideoRecord]]:
    """Returns a worker's function. `may_end`: its process may be ended where a video hangs."""
    if may_end:
        watchdog.arm(limits.max_stall_s, limits.max_memory_bytes)

    def work(work: _Work) -> list[VideoRecord]:
        if not work.isolated:
            return [probe_source(source, limits) for source in work.shard]
        with IsolatedProcess(limits) as process:
            return [probe_source(source, limits, partial(_probe_isolated, process)) for source in work.shard]

    return work


def _probe_isolated(process: IsolatedProcess, path: Path, limits: Limits) -> Probe:
    try:
        return process.call(probe, path, limits)
    except ProcessDied as death:
        return Probe(verdict="rejected", reason=str(death))


def _final(
    listing: IndexSources,
    results: ProbeResults,
    original_N: npt.NDArray[np.int64],
    group_N: Iterable[str | None],
    is_aside_N: npt.NDArray[np.bool_],
    config: IngestConfig,
) -> Iterator[VideoRecord]:
    """Yields the rows of the index; a row that repeats earlier bytes says so.

    Percepts are kept by content, so nothing counts twice.
    """
    for place, (source, group) in enumerate(zip(listing.sources, group_N, strict=True)):
        label = label_of(source, config)
        rest = TRAIN_PART if config.held_out_labelled and label is not None else DEFAULT_PART
        part = HELD_OUT_PART if is_aside_N[place] else source.part or rest
        record = replace(results[place], label=label, part=part, group=group)
        original = int(original_N[place])
        if original != place:
            same = _copy_of(results[original].uri)
            record = replace(record, reason=f"{record.reason}; {same}" if record.reason else same)
        yield record


def label_of(source: VideoSource, config: IngestConfig) -> str | None:
    """Returns the label of a video: that of its list or, with `folder_labels`, the name of its folder.

    A server, a bucket or an archive is no folder.
    """
    if source.label is not None or not config.folder_labels:
        return source.label
    address, is_url = without_query(source.uri), "://" in source.uri
    folder = posixpath.dirname(address.partition("://")[2] if is_url else address)
    is_none = (is_url and "/" not in folder) or is_top_of_archive(folder)
    return None if is_none else posixpath.basename(folder) or None


def _copy_of(uri: str) -> str:
    return f"{COPY_OF}{posixpath.basename(uri)}"


class _IndexCounter:
    """Passes the rows of an index on and sums them up, each content once."""

    def __init__(self, original_N: npt.NDArray[np.int64], records: Iterable[VideoRecord]) -> None:
        self._is_first_N = original_N == np.arange(len(original_N))
        self._records = records
        self._counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[VideoRecord]:
        for record, is_first in zip(self._records, self._is_first_N, strict=True):
            self._counts["num_videos"] += 1
            if not is_first:
                self._counts["num_duplicates"] += 1
                yield record
                continue
            self._counts["num_bytes"] += record.size_bytes
            if record.verdict == "rejected":
                self._counts["num_rejected"] += 1
                self._counts[TO_LOOK_AT] += record.may_pass
            else:
                self._counts["num_frames"] += record.frames_expected
                self._counts["duration_us"] += record.duration_us or 0
            yield record

    def record(self, context: Context) -> None:
        """Adds the counts to the facts of the artifact."""
        names = ("num_videos", "num_duplicates", "num_rejected", "num_frames", "num_bytes")
        seconds = round(self._counts["duration_us"] / 1e6, 3)
        context.record(**{name: self._counts[name] for name in names}, seconds_of_video=seconds)
        if num_to_look_at := self._counts[TO_LOOK_AT]:
            context.record(**{TO_LOOK_AT: num_to_look_at})
            context.log(f"{num_to_look_at:,} videos could not be read: the next run looks at them again")
