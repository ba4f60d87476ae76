"""Decodes in processes of this node, which hand frames over in shared memory: for a GPU that many cores feed.

Threads of one process share Python's lock and stop at about two cores' worth of small frames; processes do not.
"""

import queue
import weakref
from collections.abc import Generator
from contextlib import ExitStack
from typing import Final

from stages.extraction.decode_queue import (
    CHUNK_FRAMES,
    CHUNKS_AHEAD,
    DecodeSource,
    IsolatedDecoder,
    TimedEvent,
    Video,
    decode_measured,
)
from stages.percepts.shards import VideoResult
from stages.video.chunks import CHUNK_BYTES
from stages.video.decode import DecodeConfig
from stages.video.limits import Limits
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied

NUM_SLOTS: Final = CHUNKS_AHEAD + 3
"""Chunks of a process that exist at once: those that wait, one on its way to them, one with the consumer, and one that
is being filled."""


class DecodeProcesses:
    """A DecodeSource of `num_processes` processes, each of which decodes one video after the other.

    A video that comes while all of them are busy is decoded `elsewhere`.

    A chunk's memory belongs to its process until the chunk is dropped: a caller that collects chunks in a list waits
    for ever. A video on which a process dies is decoded again in an isolated process, whose memory is limited, and
    which finds out what it dies of: as for a worker that decodes in its own threads. The processes end with this
    object, or with the process that holds it.
    """

    def __init__(
        self, config: DecodeConfig, limits: Limits, *, num_processes: int, elsewhere: DecodeSource | None = None
    ) -> None:
        self._config = config
        self._limits = limits
        self._elsewhere = elsewhere
        shared = (NUM_SLOTS, chunk_bytes(config))
        self._idle: queue.SimpleQueue[IsolatedProcess] = queue.SimpleQueue()
        with ExitStack() as processes:
            for _ in range(num_processes):
                # Each starts with its first video.
                self._idle.put(processes.enter_context(IsolatedProcess(limits, is_limited=False, shared=shared)))
            weakref.finalize(self, processes.pop_all().close)

    def __call__(self, video: Video) -> Generator[TimedEvent, None, None]:
        """Yields measured events of a video. Many threads may call it at once."""
        try:
            process = self._idle.get(block=self._elsewhere is None)
        except queue.Empty:
            assert self._elsewhere is not None
            yield from self._elsewhere(video)
            return
        num_events = 0
        try:
            for decoded in process.stream(decode_measured, self._config, self._limits, video):
                num_events += 1
                yield decoded
        except ProcessDied:
            yield from decoded_in_isolation(video, self._config, self._limits, num_known=num_events)
        finally:
            self._idle.put(process)


def decoded_in_isolation(
    video: Video, config: DecodeConfig, limits: Limits, *, num_known: int
) -> Generator[TimedEvent, None, None]:
    """Yields events of a video on which a process has died, without the first `num_known`.

    Chunks come in the same order again. Its result is always new.
    """
    with IsolatedDecoder(config, limits) as source:
        for number, decoded in enumerate(source(video)):
            if number >= num_known or isinstance(decoded.event, VideoResult):
                yield decoded


def chunk_bytes(config: DecodeConfig) -> int:
    """Returns the bytes of a full chunk of frames of a known size; where the size is each video's own, the most."""
    if config.crop_px is None:
        return CHUNK_BYTES
    return min(CHUNK_BYTES, CHUNK_FRAMES * config.crop_px**2 * config.num_channels)
