"""extract: percepts of every frame of every video of an index, each paid for once.

    percepts = extract(ExtractConfig(convnet=ConvnetConfig(layer="blocks.4", grid=4)), context, index=index)

Percepts are kept by content: below `<store>/percepts/`, by the sha256 of the video and the fingerprint of the
extractor. A video that any complete shard of that fingerprint holds is not extracted again, whoever asked first. What
is missing is cut into shards, the plan is written down, and workers fill the shards; a run that was killed goes on
with the same plan and ends with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.errors import ConfigError, SourceError
from pipeline.files import join
from pipeline.stage import Context, Estimate, Resources, stage
from stages.costs import extraction_seconds
from stages.percepts.artifacts import Percepts
from stages.percepts.convnets import percept_dim
from stages.percepts.extraction import ShardDone, ShardExtractor, ShardTask
from stages.percepts.extractor import ExtractionConfig, extractor_of
from stages.percepts.ledger import VideoRecord, write_records
from stages.percepts.plan import ledger_row, make_plan, settle, usable_videos
from stages.percepts.schema import Extractor
from stages.percepts.shards import LEDGER_FILE, ShardUse, read_shards, write_uses
from stages.percepts.takedowns import read_takedowns, taken_down
from stages.video import watchdog
from stages.video.artifacts import Index

ROW_OVERHEAD_BYTES = 17
"""Bytes of a row beside its percept: frame, time, segment and a video code, before Parquet packs them."""


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionConfig):
    """Which percepts, and how they are cut into files."""

    shard_frames: int = 16384
    """Frames in a file, about; a video is never cut. 4096-d percepts of so many take 134 MB."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard_frames < 1:
            raise ConfigError(f"shard_frames is {self.shard_frames}; a shard needs at least 1 frame")


def estimate_extraction(config: ExtractConfig, num_frames: int, frames_per_s: float | None = None) -> Estimate:
    """Frames, bytes before compression, and seconds where a rate is known; with a target rate_fps, upper bounds."""
    row_bytes = 2 * percept_dim(config.convnet) + ROW_OVERHEAD_BYTES
    seconds = None if frames_per_s is None else num_frames / frames_per_s
    return Estimate(num_frames=num_frames, num_bytes=num_frames * row_bytes, seconds=seconds)


def _estimate(config: ExtractConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    num_frames = inputs["index"].num_frames
    if num_frames is None:
        return Estimate()
    seconds = extraction_seconds(config.convnet.name, config.convnet.input_px, num_frames)
    return replace(estimate_extraction(config, num_frames), seconds=seconds)


def fingerprint(config: ExtractConfig) -> str:
    """Digest of the extractor, weights included: part of the stage's key."""
    return extractor_of(config).fingerprint


@stage(version=1, snapshot=fingerprint, estimate=_estimate)
def extract(config: ExtractConfig, context: Context, *, index: Index) -> Percepts:
    """Extract what no shard of the store holds yet, and write the ledger. A rejected video is a row of it.

    Raises:
        ConfigError, DigestError, SourceError: no such convnet or layer; weights missing or not the promised ones.
        SourceError: no video of the index gave a frame.
        RunError: the convnet's engine cannot be trusted here, or percepts overflow float16.
        WorkerDied: two workers died on one shard, the second one with its videos decoded apart: not a video's fault.
    """
    extractor = extractor_of(config)
    records = index.records()
    videos = usable_videos(records, taken_down(context.store_uri))
    plan = make_plan(context.uri, context.store_uri, extractor.fingerprint, videos, shard_frames=config.shard_frames)
    began = time.perf_counter()
    done = _run(config, context, extractor, plan.tasks)
    seconds = time.perf_counter() - began
    # Once more: somebody may have taken a video down meanwhile.
    takedowns = read_takedowns(context.store_uri)
    videos = [video for video in videos if video.sha256 not in takedowns]
    uses, outcomes = settle(context.store_uri, videos, plan.holders)
    if not uses:
        raise SourceError("no video of the index gave a frame; look at the verdicts: python -m pipeline.ledger")
    ledger = [ledger_row(record, outcomes, takedowns) for record in records]
    write_records(join(context.uri, LEDGER_FILE), ledger, store_uri=context.store_uri)
    write_uses(context.uri, uses)
    _record_facts(context, extractor, ledger, uses)
    _record_speed(context, done, seconds)
    return Percepts(context.uri, context.key)


def _run(config: ExtractConfig, context: Context, extractor: Extractor, tasks: Sequence[ShardTask]) -> list[ShardDone]:
    """Write the shards that are not complete yet."""
    complete = read_shards(context.store_uri, [task.path for task in tasks])
    missing = [task for task in tasks if task.path not in complete]
    progress = _Progress(context, sum(task.num_frames for task in missing))
    may_end = context.workers.replaces_workers
    factory = partial(_shard_extractor, config, extractor, context.store_uri, context.resources, may_end)
    resources = context.resources
    results = context.workers.map(
        factory,
        missing,
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        again=partial(replace, apart=True),
    )
    for _, done in results:
        progress.add(done)
    return progress.done


def _shard_extractor(
    config: ExtractConfig, extractor: Extractor, store_uri: str, resources: Resources, may_end: bool
) -> ShardExtractor:
    """In a worker. `may_end`: its process may be ended where a video hangs."""
    if may_end:
        watchdog.arm(config.limits.max_stall_s, config.limits.max_memory_bytes)
    device = "cuda" if resources.gpus_per_worker else "cpu"
    return ShardExtractor(config, extractor, store_uri, device=device, num_cpus=max(1, int(resources.cpus_per_worker)))


class _Progress:
    """Frames done, and who waits for whom."""

    def __init__(self, context: Context, num_frames: int) -> None:
        self.done: list[ShardDone] = []
        self._context = context
        self._num_frames = num_frames
        self._began = time.perf_counter()

    def add(self, shard: ShardDone) -> None:
        self.done.append(shard)
        num_frames = sum(done.num_frames for done in self.done)
        rate = num_frames / (time.perf_counter() - self._began)
        starved = sum(done.starved_s for done in self.done) / sum(done.seconds for done in self.done)
        note = f"{rate:.0f} frames/s, convnet waits {starved:.0%} for decoders"
        self._context.progress(min(num_frames, self._num_frames), self._num_frames, "frames", note)


def _record_facts(
    context: Context, extractor: Extractor, ledger: Sequence[VideoRecord], uses: Sequence[ShardUse]
) -> None:
    unique = {record.sha256 or record.uri: record for record in ledger}.values()
    verdicts = [record.verdict for record in unique]
    num_bytes, num_rows = sum(use.bytes for use in uses), sum(use.rows for use in uses)
    context.record(
        num_frames=sum(record.frames_decoded or 0 for record in unique),
        num_frames_expected=sum(record.frames_expected for record in unique),
        num_frames_dropped=sum(record.frames_dropped or 0 for record in unique),
        num_frames_missing=sum(record.frames_missing or 0 for record in unique),
        num_bytes=num_bytes,
        bytes_per_frame=round(num_bytes / num_rows, 1),
        dim=extractor.dim,
        fingerprint=extractor.fingerprint,
        num_videos_ok=verdicts.count("ok"),
        num_videos_partial=verdicts.count("partial"),
        num_videos_rejected=verdicts.count("rejected"),
    )


def _record_speed(context: Context, done: Sequence[ShardDone], seconds: float) -> None:
    num_frames = sum(shard.num_frames for shard in done)
    context.record(num_frames_extracted=num_frames)
    if done:
        context.record(
            frames_per_s=round(num_frames / seconds, 1),
            starved_share=round(sum(shard.starved_s for shard in done) / sum(shard.seconds for shard in done), 3),
            backend=done[0].backend,
            num_cores=context.resources.num_workers * context.resources.cpus_per_worker,
            num_gpus=context.resources.num_workers * context.resources.gpus_per_worker,
        )
