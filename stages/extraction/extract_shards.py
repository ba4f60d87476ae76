"""Writes the shards of a plan with many workers, whatever happens to those, and says live what waits for what."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from pipeline.core.disk_list import DiskList
from pipeline.core.errors import ConfigError, WorkerDied
from pipeline.core.events import Emit, Progress
from pipeline.core.stage import Context
from pipeline.core.workers import ClusterNode, Workers
from stages.extraction.config import ExtractionConfig
from stages.extraction.decode_processes import DecodeProcesses, decoded_in_isolation
from stages.extraction.decode_queue import CHUNKS_AHEAD, DecodeSource, TimedEvent, Video, decode_measured
from stages.extraction.shard_task import ReportProgress, ShardDone, ShardTask, Timings, describe_timings, sum_timings
from stages.extraction.worker_allocation import WorkerAllocation, allocate_workers
from stages.percepts.schema import Extractor
from stages.percepts.shards import iter_shards
from stages.video.container import check_cuda_decoder
from stages.video.decode import DecodeConfig
from stages.video.limits import Limits
from stages.video.processes import watchdog

if TYPE_CHECKING:
    from stages.extraction.shard_extractor import ShardExtractor

SECONDS_BETWEEN_REPORTS: Final = 1.0
"""The least time between two points of the curves of queue and waiting."""
MAX_DEATHS: Final = 10
"""Most workers that may die on one shard. From the second try on, its videos are decoded in isolated processes, where
they cannot kill a worker: a worker that dies then was killed, or its machine was."""


def extract_shards(
    config: ExtractionConfig,
    context: Context,
    extractor: Extractor,
    tasks: Sequence[ShardTask],
) -> tuple[list[ShardDone], WorkerAllocation]:
    """Writes the shards that are not complete yet, with all cores of the nodes that are alive.

    Raises:
        ConfigError: frames are to be decoded on GPUs, and no worker has one, or one without a decoder.
        WorkerDied: workers died again and again on one shard, though its videos were decoded in isolated processes.
    """
    # A shard that no video came out of has the name of the one that tries them again.
    complete = {
        shard.path
        for shard in iter_shards(context.store_uri, [task.path for task in tasks])
        if not all(r.is_to_try(look_at_rejected=context.looks_at_rejected) for r in shard.results.values())
    }
    missing = DiskList(task for task in tasks if task.path not in complete)
    nodes = context.workers.nodes()
    if missing and config.decode.hardware == "cuda":
        nodes = _with_gpus(context, nodes)
    allocation = allocate_workers(context.resources, nodes, len(missing))
    progress = _OverallProgress(context, missing, worker="GPU" if allocation.gpus_per_worker else "worker")
    results = context.workers.map(
        partial(shard_extractor, config, extractor, context.store_uri, allocation, context.workers, progress.reporter),
        missing,
        num_workers=allocation.num_workers,
        cpus_per_worker=allocation.cpus_per_worker,
        gpus_per_worker=allocation.gpus_per_worker,
        on_retry=partial(replace, isolated=True),
        max_deaths=MAX_DEATHS,
    )
    for _, done in results:
        progress.add(done)
    return progress.done, allocation


def _with_gpus(context: Context, nodes: Sequence[ClusterNode]) -> tuple[ClusterNode, ...]:
    """Returns the nodes that can decode on GPUs: cores of others would conceal damage in another way."""
    with_gpus = tuple(node for node in nodes if node.num_gpus)
    if not with_gpus or not context.resources.gpus_per_worker:
        raise ConfigError(
            "decode.hardware is cuda, and no worker of the extraction has a GPU: run where there is one, with"
            " --gpus-per-worker auto or a number, or give --extract.decode.hardware none"
        )
    return with_gpus


def shard_extractor(
    config: ExtractionConfig,
    extractor: Extractor,
    store_uri: str,
    allocation: WorkerAllocation,
    workers: Workers,
    report_progress: ReportProgress | None = None,
) -> ShardExtractor:
    """Builds the extractor in a worker, which may be ended where a video hangs, if it is replaced then."""
    if workers.replaces_workers:
        watchdog.arm(config.limits.max_stall_s, config.limits.max_memory_bytes)
    if config.decode.hardware == "cuda":
        check_cuda_decoder()
    source: DecodeSource | None = None
    if allocation.decodes_elsewhere:
        source = partial(_decode_elsewhere, workers, config)
    if allocation.num_processes:
        source = DecodeProcesses(config.decode, config.limits, num_processes=allocation.num_processes, elsewhere=source)
    # Here, and not above: torch takes a second to import, and recipes import this file for the stage.
    from stages.extraction.shard_extractor import ShardExtractor

    return ShardExtractor(
        config,
        extractor,
        store_uri,
        device="cuda" if allocation.gpus_per_worker else "cpu",
        num_threads=allocation.num_threads,
        num_decoders=allocation.num_decoders,
        source=source,
        report_progress=report_progress,
    )


def _decode_elsewhere(workers: Workers, config: ExtractionConfig, video: Video) -> Generator[TimedEvent, None, None]:
    """Yields events of a video from another process, on whichever node has a core.

    A video on which such processes die is decoded in an isolated process, here, which finds out the cause.
    """
    num_events = 0
    try:
        function = partial(_decode_armed, config.decode, config.limits, workers.replaces_workers)
        for decoded in workers.stream(function, video, ahead=CHUNKS_AHEAD):
            num_events += 1
            yield decoded
    except WorkerDied:
        yield from decoded_in_isolation(video, config.decode, config.limits, num_known=num_events)


def _decode_armed(
    config: DecodeConfig, limits: Limits, may_end: bool, video: Video
) -> Generator[TimedEvent, None, None]:
    """Decodes in the other process, which may be ended where the video hangs in it."""
    if may_end:
        watchdog.arm(limits.max_stall_s, limits.max_memory_bytes)
    yield from decode_measured(config, limits, video)


@dataclass(frozen=True)
class _ProgressReporter:
    """A callable that reports the progress of a shard. It travels to the workers."""

    source: str
    emit: Emit
    num_frames: int
    """Number of frames of all shards."""
    worker: str

    def __call__(self, path: str, num_frames: int, timings: Timings) -> None:
        note, total = describe_timings(timings, worker=self.worker), self.num_frames
        self.emit(Progress(source=self.source, part=path, done=num_frames, total=total, unit="frames", note=note))


class _OverallProgress:
    """The progress and the timings of all workers."""

    def __init__(self, context: Context, tasks: Sequence[ShardTask], *, worker: str) -> None:
        self.done: list[ShardDone] = []
        self._context, self._reported_s = context, 0.0
        self._timings = Timings()
        self._num_frames = {task.path: task.num_frames for task in tasks}
        self.reporter = _ProgressReporter(context.source, context.emit, sum(self._num_frames.values()), worker)

    def add(self, shard: ShardDone) -> None:
        """Adds a shard that is done, with the frames that it had promised, so that the sum ends at the total."""
        self.done.append(shard)
        self._timings = sum_timings((self._timings, shard.timings))
        self.reporter(shard.path, self._num_frames[shard.path], self._timings)
        if time.monotonic() - self._reported_s < SECONDS_BETWEEN_REPORTS and len(self.done) < len(self._num_frames):
            return
        self._reported_s = time.monotonic()
        self._context.metrics(
            len(self.done),
            queue_length=len(self._num_frames) - len(self.done),
            seconds_waited=self._timings.waited_s,
            busy_share=self._timings.convnet_share,
        )
