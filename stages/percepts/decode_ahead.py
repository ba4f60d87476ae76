"""Decodes videos in threads ahead of whoever consumes them, in a fixed order and in bounded memory.

FFmpeg works without Python's lock, so decoding overlaps the convnet inside one process.
"""

import hashlib
import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stages.percepts.shards import Outcome
from stages.video.apart import Apart, DiedApart
from stages.video.container import Limits
from stages.video.decode import DecodeConfig, FrameChunk, VideoDecoder
from stages.video.sources import local_video

CHUNK_FRAMES: Final = 32
CHUNKS_AHEAD: Final = 4
"""Chunks that wait, at most, for each video being decoded: 20 MB at 224x224 pixels."""
POLL_S: Final = 0.1
HASH_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Video:
    """A video to decode, and the bytes that it must have."""

    sha256: str
    uri: str
    frames_expected: int

    def __str__(self) -> str:
        return self.uri


Event = FrameChunk | Outcome
"""Chunks of a video, then its outcome. After a rejection, the chunks that came before it must be forgotten."""


def decode(video: Video, config: DecodeConfig, limits: Limits) -> Generator[Event, None, None]:
    """Chunks and outcome of one video. Whatever is wrong with the file is in the outcome: nothing is raised for it."""
    try:
        with local_video(video.uri) as path:
            if _sha256(path) != video.sha256:
                yield _unreadable(video, "its bytes have changed since it was indexed: ingest it again")
                return
            decoder = VideoDecoder(path, config, limits=limits, chunk_frames=CHUNK_FRAMES)
            yield from decoder
            yield Outcome(**vars(decoder.report))
    except OSError as error:
        yield _unreadable(video, f"cannot be read: {error.strerror or error}")


def decode_apart(apart: Apart, video: Video, config: DecodeConfig, limits: Limits) -> Generator[Event, None, None]:
    """The same as `decode`, in a process apart: a video that kills it, or hangs in it, is rejected."""
    try:
        yield from apart.stream(decode, video, config, limits)
    except DiedApart as death:
        yield rejected(video.frames_expected, str(death), final=not death.is_stall)


def _unreadable(video: Video, reason: str) -> Outcome:
    return rejected(video.frames_expected, reason, final=False)


def rejected(frames_expected: int, reason: str, *, final: bool) -> Outcome:
    """The outcome of a video that gives no frames."""
    return Outcome(
        frames_expected=frames_expected,
        frames_decoded=0,
        frames_dropped=0,
        frames_missing=frames_expected,
        verdict="rejected",
        reason=reason,
        final=final,
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(HASH_BYTES):
            digest.update(piece)
    return digest.hexdigest()


Processes = queue.SimpleQueue[Apart]
"""Of which every thread borrows one."""


class _Lane:
    """One video's way from its thread to the consumer."""

    def __init__(self, video: Video) -> None:
        self.video = video
        self.events: queue.Queue[Event | BaseException] = queue.Queue(CHUNKS_AHEAD)

    def run(self, config: DecodeConfig, limits: Limits, stop: threading.Event, processes: Processes | None) -> None:
        """In a thread: decode, waiting where the consumer is behind. What it raises is raised by the consumer."""
        apart = None if processes is None else processes.get()
        try:
            events = (
                decode(self.video, config, limits) if apart is None else decode_apart(apart, self.video, config, limits)
            )
            with closing(events):
                for event in events:
                    if not self._put(event, stop):
                        return
        except BaseException as error:  # noqa: BLE001
            self._put(error, stop)
        finally:
            if processes is not None and apart is not None:
                processes.put(apart)

    def _put(self, event: Event | BaseException, stop: threading.Event) -> bool:
        while not stop.is_set():
            try:
                self.events.put(event, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False


def decode_ahead(
    videos: Sequence[Video], config: DecodeConfig, limits: Limits, *, num_threads: int, apart: bool = False
) -> Generator[tuple[Video, Event], None, None]:
    """Events of all videos, one video after the other in the order given, while the next ones are being decoded.

    `apart`: each thread decodes in a process of its own, so that a video which kills its decoder is only rejected.
    """
    stop = threading.Event()
    lanes = [_Lane(video) for video in videos]
    with ExitStack() as stack:
        processes: Processes | None = queue.SimpleQueue() if apart else None
        if processes is not None:
            for _ in range(num_threads):
                processes.put(stack.enter_context(Apart(limits)))
        pool = stack.enter_context(ThreadPoolExecutor(num_threads, thread_name_prefix="decode"))
        try:
            for lane in lanes[:num_threads]:
                pool.submit(lane.run, config, limits, stop, processes)
            for position, lane in enumerate(lanes):
                event: Event | BaseException = lane.events.get()
                while not isinstance(event, Outcome):
                    if isinstance(event, BaseException):
                        raise event
                    yield lane.video, event
                    event = lane.events.get()
                if position + num_threads < len(lanes):
                    pool.submit(lanes[position + num_threads].run, config, limits, stop, processes)
                yield lane.video, event
        finally:
            stop.set()
