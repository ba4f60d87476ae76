"""extract: percepts of every frame of every video of an index, each paid for once.

    percepts = extract(ExtractConfig(convnet=ConvnetConfig(layer="blocks.4", grid=4)), context, index=index)

Percepts are kept by content: below `<store>/percepts/`, by the sha256 of the video and the fingerprint of the
extractor. A video that any complete shard of that fingerprint holds is not extracted again, whichever run was first.
What is missing is cut into shards, the plan is written down, and workers fill the shards; a run that was killed goes on
with the same plan and ends with the same bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.errors import SourceError
from pipeline.core.files import join
from pipeline.core.numbers import check_at_least
from pipeline.core.rates import WORKER_START_S, extraction_seconds
from pipeline.core.stage import Context, Estimate, stage
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.extraction.extract_shards import extract_shards
from stages.extraction.shard_plan import collect_results, make_plan
from stages.extraction.shard_task import ShardDone, describe_timings, sum_timings
from stages.extraction.worker_allocation import WorkerAllocation
from stages.percepts.artifacts import NUM_REJECTED_HERE, Percepts
from stages.percepts.schema import Extractor
from stages.percepts.shards import LEDGER_FILE, ShardReference, write_references
from stages.percepts.takedowns import read_takedowns, taken_down
from stages.video.artifacts import TO_LOOK_AT, Index
from stages.video.ledger import VideoRecord, rejections_in_words, write_records
from stages.video.record_table import COLUMNS, RecordTable, first_of_each

ROW_OVERHEAD_BYTES = 17
"""Bytes of a row beside its percept: frame, time, segment and a video code, before Parquet packs them."""


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionConfig):
    """The percepts to extract, and how they are cut into files."""

    shard_frames: int = 16384
    """Frames in a file, about; a video is never cut. 4096-d percepts of so many take 134 MB."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "shard_frames")


def _estimate(config: ExtractConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Estimates frames, bytes before compression, and seconds: upper bounds with a target rate_fps."""
    from stages.convnets.convnet import percept_dim

    num_frames = inputs["index"].num_frames
    if num_frames is None:
        return Estimate()
    computing_s = extraction_seconds(config.convnet.name, config.convnet.input_px, num_frames)
    return Estimate(
        num_videos=inputs["index"].num_videos,
        num_frames=num_frames,
        num_bytes=num_frames * (2 * percept_dim(config.convnet) + ROW_OVERHEAD_BYTES),
        seconds=None if computing_s is None else WORKER_START_S + computing_s,
    )


def fingerprint(config: ExtractConfig) -> str:
    """Returns the digest of the extractor, weights included: part of the stage's key."""
    return extractor_of(config).fingerprint


@stage(version=1, snapshot=fingerprint, estimate=_estimate)
def extract(config: ExtractConfig, context: Context, *, index: Index) -> Percepts:
    """Extracts what no shard of the store holds yet, and writes the ledger. A rejected video is a row of it.

    Raises:
        ConfigError, DigestError, SourceError: no such convnet or layer; weights missing or not the promised ones.
        SourceError: no video of the index gave a frame.
        RunError: the convnet's engine cannot be trusted here, or percepts overflow float16.
        WorkerDied: workers died on one shard again and again although its videos were decoded in isolated processes.
    """
    extractor = extractor_of(config)
    rows = RecordTable.read(index.tables(COLUMNS), taken_down(context.store_uri))
    plan = make_plan(
        context.uri,
        context.store_uri,
        extractor.fingerprint,
        rows,
        shard_frames=config.shard_frames,
        look_at_rejected=context.looks_at_rejected,
    )
    began = time.perf_counter()
    done, allocation = extract_shards(config, context, extractor, plan.tasks(index.iter_records()))
    seconds = time.perf_counter() - began
    # Once more: a video may have been taken down meanwhile.
    takedowns = read_takedowns(context.store_uri)
    references, account = collect_results(context.store_uri, plan, takedowns)
    if not references:
        why = rejections_in_words(account.ledger(index.iter_records(), takedowns))
        raise SourceError(f"no video of the index gave a frame: {why}; give others, or try again where it may pass")
    counted = _LedgerCounter(rows, account.ledger(index.iter_records(), takedowns))
    write_records(join(context.uri, LEDGER_FILE), counted, store_uri=context.store_uri)
    write_references(context.uri, references)
    counted.record(context)
    _record_shards(context, extractor, references)
    _record_speed(context, done, allocation, seconds)
    return Percepts(context.uri, context.key)


class _LedgerCounter:
    """Passes the rows of a ledger on and sums them up, each content once."""

    def __init__(self, rows: RecordTable, ledger: Iterable[VideoRecord]) -> None:
        self._ledger = zip(ledger, first_of_each(rows.digest_R), rows.is_video_R, strict=True)
        self._counts: Counter[str] = Counter()

    def __iter__(self) -> Iterator[VideoRecord]:
        for record, is_first, is_video in self._ledger:
            if is_first:
                self._counts["num_frames"] += record.frames_decoded or 0
                self._counts["num_frames_expected"] += record.frames_expected
                self._counts["num_frames_dropped"] += record.frames_dropped or 0
                self._counts["num_frames_missing"] += record.frames_missing or 0
                self._counts[f"num_videos_{record.verdict}"] += 1
                if is_video:  # what ingest has rejected is ingest's to look at
                    self._counts[TO_LOOK_AT] += record.may_pass
                    self._counts[NUM_REJECTED_HERE] += record.verdict == "rejected"
            yield record

    def record(self, context: Context) -> None:
        """Adds the counts to the facts of the artifact."""
        frames = ("num_frames", "num_frames_expected", "num_frames_dropped", "num_frames_missing")
        verdicts = ("num_videos_ok", "num_videos_partial", "num_videos_rejected")
        context.record(**{name: self._counts[name] for name in (*frames, *verdicts)})
        context.metrics(0, **{name.removeprefix("num_"): self._counts[name] for name in verdicts})
        if num_rejected := self._counts[NUM_REJECTED_HERE]:
            context.record(**{NUM_REJECTED_HERE: num_rejected})
        if num_to_look_at := self._counts[TO_LOOK_AT]:
            context.record(**{TO_LOOK_AT: num_to_look_at})
            context.log(f"{num_to_look_at:,} videos could not be read: the next run looks at them again")


def _record_shards(context: Context, extractor: Extractor, references: Iterable[ShardReference]) -> None:
    num_bytes = num_rows = 0
    for reference in references:
        num_bytes += reference.bytes
        num_rows += reference.rows
    context.record(
        num_bytes=num_bytes,
        bytes_per_frame=round(num_bytes / num_rows, 1),
        dim=extractor.dim,
        fingerprint=extractor.fingerprint,
    )


def _record_speed(context: Context, done: Sequence[ShardDone], allocation: WorkerAllocation, seconds: float) -> None:
    timings = sum_timings(shard.timings for shard in done)
    context.record(num_frames_extracted=timings.num_frames)
    if done:
        worker = "GPU" if allocation.gpus_per_worker else "worker"
        line = describe_timings(timings, worker=worker)
        context.record(
            frames_per_s=round(timings.num_frames / seconds, 1),
            engine="; ".join(sorted({shard.engine for shard in done})),
            starved_share=round(timings.starved_share, 3),
            convnet_busy_share=round(timings.convnet_share, 3),
            decoders_busy_share=round(timings.decoder_share, 3),
            writer_share=round(timings.writer_share, 3),
            balancing_decoders=round(timings.balance, 2),
            num_decoders=allocation.num_decoders,
            num_workers=allocation.num_workers,
            num_cores=allocation.num_cores,
            num_gpus=allocation.num_workers * allocation.gpus_per_worker,
            bottleneck=line,
        )
        context.log(line)
