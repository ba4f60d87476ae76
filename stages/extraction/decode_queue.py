"""Decodes videos side by side, ahead of their consumer, in bounded memory.

Each decoder is a thread that follows one video at a time: FFmpeg works without Python's lock, so decoding overlaps the
convnet inside one process; where frames come from another process, the thread waits for them. Frames of a video keep
their order; the consumer takes those of any video that has some, so that one long video does not leave the other
decoders idle.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Self

from pipeline.core.files import sha256_file
from stages.percepts.shards import VideoResult
from stages.video.decode import DecodeConfig, FrameChunk, VideoDecoder
from stages.video.fetch import unreadable_reason
from stages.video.ledger import NOT_READ
from stages.video.limits import Limits
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied
from stages.video.sources import is_plain_path, local_video

CHUNK_FRAMES: Final = 32
CHUNKS_AHEAD: Final = 2
"""Chunks that wait, at most, for each video being decoded: 10 MB at 224x224 pixels."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video to decode, and the bytes that it must have."""

    sha256: str
    uri: str
    frames_expected: int

    def __str__(self) -> str:
        return self.uri


Event = FrameChunk | VideoResult
"""Chunks of a video, then its result. After a rejection, the chunks that came before it must be forgotten."""


@dataclass(frozen=True)
class TimedEvent:
    """An event, and what it cost."""

    event: Event
    core_s: float
    """Seconds that a core worked for it; waiting is not among them."""


DecodeSource = Callable[[Video], Generator[TimedEvent, None, None]]
"""Decodes a video, here or elsewhere: the same events each time."""


def decode(video: Video, config: DecodeConfig, limits: Limits) -> Generator[Event, None, None]:
    """Yields chunks and result of one video.

    Whatever is wrong with the file is in the result: nothing is raised for it.
    """
    try:
        with local_video(video.uri, max_bytes=limits.max_bytes) as path:
            if sha256_file(str(path)) != video.sha256:
                reason = "its bytes have changed since it was indexed: run again with --look-again"
                # Of a local file the next listing shows it.
                yield _unreadable(video, reason if is_plain_path(video.uri) else NOT_READ + reason)
                return
            on_gpu = config.hardware == "cuda"
            decoder = VideoDecoder(path, config, limits=limits, chunk_frames=CHUNK_FRAMES, on_gpu=on_gpu)
            yield from decoder
            yield VideoResult(**vars(decoder.report))
    except OSError as error:
        yield _unreadable(video, unreadable_reason(error, video.uri))


def decode_measured(config: DecodeConfig, limits: Limits, video: Video) -> Generator[TimedEvent, None, None]:
    """Yields the events of `decode`, each with its cost in the thread that calls it."""
    began = time.thread_time()
    with closing(decode(video, config, limits)) as events:
        for event in events:
            yield TimedEvent(event, time.thread_time() - began)
            began = time.thread_time()


class IsolatedDecoder:
    """A DecodeSource that decodes in isolated processes (`stages.video.processes.isolated_process`).

    It rejects a video that kills the process or hangs in it. A context manager, which ends the processes.
    They decode on the CPU: CUDA takes more address space than they may have.
    """

    def __init__(self, config: DecodeConfig, limits: Limits) -> None:
        self._config = replace(config, hardware="none")
        self._limits = limits
        self._idle: queue.SimpleQueue[IsolatedProcess] = queue.SimpleQueue()
        self._processes = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._processes.close()

    def __call__(self, video: Video) -> Generator[TimedEvent, None, None]:
        """Yields measured events of a video. Many threads may call it at once: there are as many processes."""
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = self._processes.enter_context(IsolatedProcess(self._limits))
        try:
            yield from process.stream(decode_measured, self._config, self._limits, video)
        except ProcessDied as death:
            yield TimedEvent(rejected(video.frames_expected, str(death), final=not death.is_stall), 0.0)
        finally:
            self._idle.put(process)


def _unreadable(video: Video, reason: str) -> VideoResult:
    return rejected(video.frames_expected, reason, final=False)


def rejected(frames_expected: int, reason: str, *, final: bool) -> VideoResult:
    """Returns the result of a video that gives no frames."""
    return VideoResult(
        frames_expected=frames_expected,
        frames_decoded=0,
        frames_dropped=0,
        frames_missing=frames_expected,
        verdict="rejected",
        reason=reason,
        final=final,
    )


@dataclass
class _QueuedVideo:
    """One video's way from its decoder to the consumer."""

    video: Video
    events: deque[Event | BaseException] = field(default_factory=deque)
    is_done: bool = False
    """The consumer has taken its result."""


class DecodeQueue:
    """Events of all videos; use as a context manager, which ends the decoders.

    At most `num_decoders` videos are being decoded and `2 * num_decoders * CHUNKS_AHEAD` chunks are waiting.
    """

    def __init__(self, videos: Sequence[Video], source: DecodeSource, *, num_decoders: int) -> None:
        assert num_decoders > 0
        self._source = source
        self._num_decoders = num_decoders
        self._queue = [_QueuedVideo(video) for video in videos]
        self._num_begun = 0
        self._num_done = 0
        """Lanes at the front that the consumer is through with."""
        self._num_waiting = 0
        self._stopping = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._decode, name=f"decode-{number}", daemon=True)
            for number in range(min(num_decoders, len(videos)))
        ]
        self.core_s = 0.0
        """Seconds that cores worked at decoding, so far."""
        self.waited_s = 0.0
        """Seconds that the consumer waited in `next`, so far."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def next(self, *, in_order: bool = False) -> tuple[Video, Event] | None:
        """Returns the next event of the first video that has one; None once all videos have ended.

        It waits where no video has an event.

        `in_order` takes events of the first video only that has not ended. What a source raises is raised here.
        """
        began = time.perf_counter()
        with self._changed:
            while True:
                queued = self._ready(in_order)
                if queued is not None or self._num_done == len(self._queue):
                    break
                self._changed.wait()
            self.waited_s += time.perf_counter() - began
            if queued is None:
                return None
            event = queued.events.popleft()
            self._num_waiting -= 1
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, VideoResult):
                queued.is_done = True
                while self._num_done < len(self._queue) and self._queue[self._num_done].is_done:
                    self._num_done += 1
            self._changed.notify_all()
            return queued.video, event

    def _ready(self, in_order: bool) -> _QueuedVideo | None:
        end = min(self._num_done + 1, self._num_begun) if in_order else self._num_begun
        return next((queued for queued in self._queue[self._num_done : end] if queued.events), None)

    def _decode(self) -> None:
        """Decodes one video after the other in a thread, waiting where the consumer is behind."""
        while (queued := self._begin()) is not None:
            try:
                with closing(self._source(queued.video)) as events:
                    for timed in events:
                        if not self._put(queued, timed.event, timed.core_s):
                            return
            except BaseException as error:  # noqa: BLE001  # raised again where the events are consumed
                self._put(queued, error, 0.0)

    def _begin(self) -> _QueuedVideo | None:
        limit = self._num_decoders * CHUNKS_AHEAD
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or self._num_waiting < limit or self._num_begun == len(self._queue)
            )
            if self._stopping or self._num_begun == len(self._queue):
                return None
            self._num_begun += 1
            return self._queue[self._num_begun - 1]

    def _put(self, queued: _QueuedVideo, event: Event | BaseException, core_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or len(queued.events) < CHUNKS_AHEAD)
            if self._stopping:
                return False
            queued.events.append(event)
            self._num_waiting += 1
            self.core_s += core_s
            self._changed.notify_all()
            return True
