"""Decodes videos in threads ahead of whoever consumes them, in a fixed order and in bounded memory.

FFmpeg works without Python's lock, so decoding overlaps the convnet inside one process.
"""

import hashlib
import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stages.percepts.shards import Outcome
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


def decode(video: Video, config: DecodeConfig, limits: Limits) -> Iterator[Event]:
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


class _Lane:
    """One video's way from its thread to the consumer."""

    def __init__(self, video: Video) -> None:
        self.video = video
        self.events: queue.Queue[Event | BaseException] = queue.Queue(CHUNKS_AHEAD)

    def run(self, config: DecodeConfig, limits: Limits, stop: threading.Event) -> None:
        """In a thread: decode, waiting where the consumer is behind. What it raises is raised by the consumer."""
        try:
            for event in decode(self.video, config, limits):
                if not self._put(event, stop):
                    return
        except BaseException as error:  # noqa: BLE001
            self._put(error, stop)

    def _put(self, event: Event | BaseException, stop: threading.Event) -> bool:
        while not stop.is_set():
            try:
                self.events.put(event, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False


def decode_ahead(
    videos: Sequence[Video], config: DecodeConfig, limits: Limits, *, num_threads: int
) -> Generator[tuple[Video, Event], None, None]:
    """Events of all videos, one video after the other in the order given, while the next ones are being decoded."""
    stop = threading.Event()
    lanes = [_Lane(video) for video in videos]
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        try:
            for lane in lanes[:num_threads]:
                pool.submit(lane.run, config, limits, stop)
            for position, lane in enumerate(lanes):
                event: Event | BaseException = lane.events.get()
                while not isinstance(event, Outcome):
                    if isinstance(event, BaseException):
                        raise event
                    yield lane.video, event
                    event = lane.events.get()
                if position + num_threads < len(lanes):
                    pool.submit(lanes[position + num_threads].run, config, limits, stop)
                yield lane.video, event
        finally:
            stop.set()
