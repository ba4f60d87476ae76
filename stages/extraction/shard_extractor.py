"""One shard of percepts: decoded frames in, one Parquet file and its sidecar out.

Batches fill across the borders of videos, and take frames of whichever video has some. What comes out does not depend
on how shards are dealt to workers, on where frames are decoded, on how fast anything is, or on how often it was killed
and begun again.

Shapes: B frames of a batch, N frames of a piece of one video, D percept dimension.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.files import HashingFile, join, open_atomic
from stages.convnets import convnet as convnets
from stages.convnets.convnet import Convnet
from stages.extraction.config import ExtractionConfig
from stages.extraction.decode_queue import DecodeQueue, DecodeSource, IsolatedDecoder, decode_measured
from stages.extraction.ordered_rows import FrameRows, OrderedRows, RejectedLate
from stages.extraction.shard_task import ReportProgress, ShardDone, ShardTask, Timings
from stages.percepts.background_writer import BackgroundWriter
from stages.percepts.node_cache import NodeCache
from stages.percepts.schema import Extractor
from stages.percepts.shards import Shard, VideoResult, write_sidecar
from stages.percepts.writer import ShardWriter

REPORT_EVERY_S: Final = 2.0


class _Pass:
    """One pass over the videos of a shard."""

    def __init__(
        self,
        task: ShardTask,
        source: DecodeSource,
        convnet: Convnet,
        num_decoders: int,
        report_progress: ReportProgress | None,
    ) -> None:
        self._task = task
        self._source = source
        self._convnet = convnet
        self._num_decoders = num_decoders
        self._report_progress = report_progress
        self._pending: deque[FrameRows] = deque()
        self.results: dict[str, VideoResult] = {}
        self.timings = Timings()
        self._reported_s = 0.0

    def write(self, writer: ShardWriter) -> None:
        """Decodes, runs the convnet and writes. Raises RejectedLate."""
        began, computed_s = time.perf_counter(), self._convnet.engine.busy_s
        videos = [video for video in self._task.videos if video.sha256 not in self._task.known]
        with (
            BackgroundWriter(writer) as background,
            DecodeQueue(videos, self._source, num_decoders=self._num_decoders) as decoding,
        ):
            rows = OrderedRows(background, videos)
            for percepts_BD in self._convnet.stream(self._batches(decoding, rows)):
                first = 0
                while first < len(percepts_BD):
                    piece = self._pending.popleft()
                    end = first + len(piece.index_N)
                    rows.add(piece, percepts_BD[first:end])
                    first = end
                self._measure(decoding, rows, background, began, computed_s)
        self._measure(decoding, rows, background, began, computed_s)
        assert not self._pending
        results = {**self._task.known, **rows.results()}
        self.results = {video.sha256: results[video.sha256] for video in self._task.videos}

    def _measure(
        self, decoding: DecodeQueue, rows: OrderedRows, writer: BackgroundWriter, began: float, computed_s: float
    ) -> None:
        seconds = time.perf_counter() - began
        self.timings = Timings(
            num_frames=rows.num_rows,
            seconds=seconds,
            convnet_s=self._convnet.engine.busy_s - computed_s,
            waited_s=decoding.waited_s,
            writer_s=writer.busy_s,
            decode_core_s=decoding.core_s,
            decoder_s=seconds * self._num_decoders,
        )
        if self._report_progress is not None and seconds - self._reported_s > REPORT_EVERY_S:
            self._reported_s = seconds
            self._report_progress(self._task.path, self.timings.num_frames, self.timings)

    def _batches(self, decoding: DecodeQueue, rows: OrderedRows) -> Iterator[npt.NDArray[np.uint8]]:
        """Yields full batches across videos, and a last shorter one; notes the rows of each."""
        size = self._convnet.batch_frames
        batch_BHWC, filled = self._convnet.new_batch(), 0
        while (item := decoding.next(in_order=rows.is_full)) is not None:
            video, event = item
            if isinstance(event, VideoResult):
                rows.end(video.sha256, event)
                continue
            first = 0
            while first < len(event.index_N):
                end = min(len(event.index_N), first + size - filled)
                part = slice(first, end)
                batch_BHWC[filled : filled + end - first] = event.frames_NHWC[part]
                piece = FrameRows(video.sha256, event.index_N[part], event.pts_us_N[part], event.segment_N[part])
                self._pending.append(piece)
                rows.expect(piece)
                filled, first = filled + end - first, end
                if filled == size:
                    yield batch_BHWC
                    # A new one: the engine may still be reading the one before.
                    batch_BHWC, filled = self._convnet.new_batch(), 0
        if filled:
            yield batch_BHWC[:filled]


class ShardExtractor:
    """The function that a worker applies to each ShardTask."""

    def __init__(
        self,
        config: ExtractionConfig,
        extractor: Extractor,
        store_uri: str,
        *,
        device: str,
        num_threads: int,
        num_decoders: int,
        source: DecodeSource | None = None,
        report_progress: ReportProgress | None = None,
    ) -> None:
        """Loads the convnet.

        `num_threads` cores compute it where `device` is "cpu"; `num_decoders` videos are decoded side by side, in
        this process or by `source`. `report_progress` gets the progress of a shard every few seconds.
        """
        self._config = config
        self._extractor = extractor
        self._store_uri = store_uri
        self._is_local = source is None
        self._source = source or partial(decode_measured, config.decode, config.limits)
        self._num_decoders = num_decoders
        self._report_progress = report_progress
        torch.set_num_threads(num_threads)
        self.convnet: Convnet = convnets.build(
            config.convnet,
            device=device,
            num_threads=num_threads,
            compiled_code=NodeCache.of_environment().compiled_code,
        )
        assert self.convnet.dim == extractor.dim

    def __call__(self, task: ShardTask) -> ShardDone:
        """Writes the shard and its sidecar, each atomically."""
        known = dict(task.known)
        while True:
            try:
                with self._source_of(task) as source:
                    attempt = _Pass(
                        replace(task, known=known), source, self.convnet, self._num_decoders, self._report_progress
                    )
                    self._write(task.path, attempt)
            except RejectedLate as late:
                # Rare (a limit hit far into a video), and cheaper than holding every video back until its end.
                known[late.video] = late.result
                continue
            return ShardDone(task.path, attempt.timings, self.convnet.engine.name)

    def _source_of(self, task: ShardTask) -> AbstractContextManager[DecodeSource]:
        if task.isolated and self._is_local:
            return IsolatedDecoder(self._config.decode, self._config.limits)
        return nullcontext(self._source)

    def _write(self, path: str, attempt: _Pass) -> None:
        with open_atomic(join(self._store_uri, path)) as target:
            file = HashingFile(target)
            with ShardWriter(file, self._extractor, compression=self._config.compression) as writer:  # type: ignore[arg-type]
                attempt.write(writer)
        num_rows, results = writer.num_rows, attempt.results
        assert num_rows == sum(result.frames_decoded for result in results.values()), "the ledger does not close"
        shard = Shard(path=path, sha256=file.digest.hexdigest(), bytes=file.num_bytes, rows=num_rows, results=results)
        write_sidecar(self._store_uri, shard)
