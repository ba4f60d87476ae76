"""One shard of percepts: decoded frames in, one Parquet file and its sidecar out.

Batches fill across the borders of videos. What comes out does not depend on how shards are dealt to workers, on how
fast anything is, or on how often it was killed and begun again.

Shapes: B frames of a batch, N frames of a piece of one video, D percept dimension.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from pipeline.files import HashingFile, join, open_atomic
from stages.percepts import convnets
from stages.percepts.convnets import Convnet
from stages.percepts.decode_ahead import Event, Video, decode_ahead
from stages.percepts.extractor import ExtractionConfig
from stages.percepts.schema import Extractor
from stages.percepts.shards import Outcome, Shard, write_sidecar
from stages.percepts.writer import ShardWriter
from stages.video.decode import FrameChunk


@dataclass(frozen=True)
class ShardTask:
    """A shard to write."""

    path: str
    """Relative to the store's root."""
    videos: tuple[Video, ...]
    known: Mapping[str, Outcome] = field(default_factory=dict)
    """Outcomes settled before: these videos are not decoded."""
    apart: bool = False
    """Decode in processes apart: a worker died on this shard, and one of its videos may be to blame."""

    @property
    def num_frames(self) -> int:
        """Frames that the videos promise."""
        return sum(video.frames_expected for video in self.videos)

    def __str__(self) -> str:
        return f"shard {self.path} ({len(self.videos)} videos from {self.videos[0].uri} on)"


@dataclass(frozen=True)
class ShardDone:
    """What it took."""

    path: str
    num_frames: int
    seconds: float
    starved_s: float
    """Of these, the convnet waited this long for decoded frames."""
    backend: str


class _RejectedLate(Exception):
    """A video of which frames had been used already was rejected after all."""

    def __init__(self, video: str, outcome: Outcome) -> None:
        super().__init__(video)
        self.video = video
        self.outcome = outcome


@dataclass(frozen=True)
class _Piece:
    """Rows that wait for their percepts."""

    video: str
    index_N: npt.NDArray[np.int32]
    pts_us_N: npt.NDArray[np.int64]
    segment_N: npt.NDArray[np.int32]


class _Pass:
    """One pass over the videos of a shard."""

    def __init__(self, task: ShardTask, config: ExtractionConfig, convnet: Convnet, num_threads: int) -> None:
        self.outcomes = {video.sha256: task.known.get(video.sha256) for video in task.videos}
        self.starved_s = 0.0
        self._config = config
        self._convnet = convnet
        self._num_threads = num_threads
        self._apart = task.apart
        self._videos = [video for video in task.videos if video.sha256 not in task.known]
        self._pieces: deque[_Piece] = deque()

    def write(self, file: BinaryIO, extractor: Extractor) -> int:
        """Decode, run the convnet and write; returns the number of rows. Raises _RejectedLate."""
        with ShardWriter(file, extractor, compression=self._config.compression) as writer:
            for percepts_BD in self._convnet.stream(self._batches()):
                first = 0
                while first < len(percepts_BD):
                    piece = self._pieces.popleft()
                    end = first + len(piece.index_N)
                    writer.write(piece.video, piece.index_N, piece.pts_us_N, piece.segment_N, percepts_BD[first:end])
                    first = end
        assert not self._pieces
        return writer.num_rows

    def _batches(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Full batches across videos, and a last shorter one; notes whose rows they are."""
        size, px = self._convnet.batch_frames, self._convnet.input_px
        batch_BHWC, filled = np.empty((size, px, px, self._convnet.in_channels), np.uint8), 0
        for video, chunk in self._chunks():
            first = 0
            while first < len(chunk.index_N):
                end = min(len(chunk.index_N), first + size - filled)
                part = slice(first, end)
                batch_BHWC[filled : filled + end - first] = chunk.frames_NHWC[part]
                self._pieces.append(_Piece(video, chunk.index_N[part], chunk.pts_us_N[part], chunk.segment_N[part]))
                filled, first = filled + end - first, end
                if filled == size:
                    yield batch_BHWC
                    # A new one: the back end may still be reading the one before.
                    batch_BHWC, filled = np.empty_like(batch_BHWC), 0
        if filled:
            yield batch_BHWC[:filled]

    def _chunks(self) -> Iterator[tuple[str, FrameChunk]]:
        """Chunks of all videos; fills `outcomes` in."""
        config, used = self._config, ""
        events = decode_ahead(
            self._videos, config.decode, config.limits, num_threads=self._num_threads, apart=self._apart
        )
        with closing(events):
            for video, event in self._timed(events):
                if isinstance(event, FrameChunk):
                    used = video.sha256
                    yield video.sha256, event
                elif event.verdict == "rejected" and used == video.sha256:
                    raise _RejectedLate(video.sha256, event)
                else:
                    self.outcomes[video.sha256] = event

    def _timed(self, events: Iterator[tuple[Video, Event]]) -> Iterator[tuple[Video, Event]]:
        """The same events; adds the seconds that they let the convnet wait to `starved_s`."""
        while True:
            began = time.perf_counter()
            event = next(events, None)
            self.starved_s += time.perf_counter() - began
            if event is None:
                return
            yield event


class ShardExtractor:
    """What a worker applies to each ShardTask."""

    def __init__(
        self, config: ExtractionConfig, extractor: Extractor, store_uri: str, *, device: str, num_cpus: int
    ) -> None:
        self._config = config
        self._extractor = extractor
        self._store_uri = store_uri
        # Decoding waits more than it works where the convnet is slow; one thread would leave gaps between videos.
        self._decode_threads = max(2, num_cpus)
        torch.set_num_threads(num_cpus)
        self._convnet = convnets.build(config.convnet, device=device, num_threads=num_cpus)
        assert self._convnet.dim == extractor.dim

    def __call__(self, task: ShardTask) -> ShardDone:
        """Write the shard and its sidecar, each atomically."""
        began = time.perf_counter()
        known = dict(task.known)
        while True:
            attempt = _Pass(replace(task, known=known), self._config, self._convnet, self._decode_threads)
            try:
                num_rows = self._write(task.path, attempt)
            except _RejectedLate as late:
                # Rare (a limit hit far into a video), and cheaper than holding every video back until its end.
                known[late.video] = late.outcome
                continue
            seconds = time.perf_counter() - began
            return ShardDone(task.path, num_rows, seconds, attempt.starved_s, self._convnet.backend.name)

    def _write(self, path: str, attempt: _Pass) -> int:
        with open_atomic(join(self._store_uri, path)) as target:
            file = HashingFile(target)
            num_rows = attempt.write(file, self._extractor)  # type: ignore[arg-type]
        outcomes: dict[str, Outcome] = {}
        for video, outcome in attempt.outcomes.items():
            assert outcome is not None, video
            outcomes[video] = outcome
        assert num_rows == sum(outcome.frames_decoded for outcome in outcomes.values()), "the ledger does not close"
        shard = Shard(path=path, sha256=file.digest.hexdigest(), bytes=file.num_bytes, rows=num_rows, outcomes=outcomes)
        write_sidecar(self._store_uri, shard)
        return num_rows
