"""Decoding ahead: every event once and in the order of its video, in bounded memory, whoever is slow."""

from __future__ import annotations

import threading
from collections.abc import Generator

import numpy as np
import pytest

from stages.extraction.decode_queue import CHUNKS_AHEAD, DecodeQueue, Event, TimedEvent, Video, rejected
from stages.percepts.shards import VideoResult
from stages.video.chunks import FrameChunk

VIDEOS = [Video(str(number), "", 0) for number in range(7)]


def chunk(number: int) -> FrameChunk:
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    return FrameChunk(frames, np.array([number], np.int32), np.zeros(1, np.int64), np.zeros(1, np.int32))


def ended() -> VideoResult:
    return rejected(0, "", final=True)


def source(video: Video) -> Generator[TimedEvent, None, None]:
    """Video n has n chunks."""
    for number in range(int(video.sha256)):
        yield TimedEvent(chunk(number), 0.5)
    yield TimedEvent(ended(), 0.0)


def drain(decoding: DecodeQueue, *, in_order: bool) -> list[tuple[Video, Event]]:
    events = []
    while (item := decoding.next(in_order=in_order)) is not None:
        events.append(item)
    return events


@pytest.mark.parametrize("num_decoders", [1, 3, 20])
@pytest.mark.parametrize("in_order", [True, False])
def test_every_event_once_and_in_the_order_of_its_video(num_decoders: int, in_order: bool) -> None:
    with DecodeQueue(VIDEOS, source, num_decoders=num_decoders) as decoding:
        events = drain(decoding, in_order=in_order)
    for number, video in enumerate(VIDEOS):
        videos = [event for of, event in events if of is video]
        assert [int(event.index_N[0]) for event in videos if isinstance(event, FrameChunk)] == list(range(number))
        assert isinstance(videos[-1], VideoResult)
    assert decoding.core_s == 0.5 * sum(range(7))
    if in_order:
        assert [of for of, _ in events] == sorted((of for of, _ in events), key=VIDEOS.index)


def test_a_slow_video_does_not_hold_up_the_others_unless_order_is_asked_for() -> None:
    release = threading.Event()

    def first_is_slow(video: Video) -> Generator[TimedEvent, None, None]:
        if video is VIDEOS[0]:
            assert release.wait(240)
        yield from source(video)

    with DecodeQueue(VIDEOS, first_is_slow, num_decoders=2) as decoding:
        for _ in range(sum(range(7)) + 6):
            item = decoding.next()
            assert item is not None
            assert item[0] is not VIDEOS[0]
        release.set()
        assert decoding.next(in_order=True) is not None
        assert decoding.next() is None


def test_what_waits_is_bounded() -> None:
    made = 0
    lock = threading.Lock()

    def endless(video: Video) -> Generator[TimedEvent, None, None]:
        nonlocal made
        for number in range(1000):
            with lock:
                made += 1
            yield TimedEvent(chunk(number), 0.0)
        yield TimedEvent(ended(), 0.0)

    with DecodeQueue(VIDEOS, endless, num_decoders=3) as decoding:
        for taken in range(1, 400):
            assert decoding.next() is not None
            with lock:
                # Beside what waits, each decoder has one in its hands.
                assert made <= taken + 2 * 3 * CHUNKS_AHEAD + 3


def test_what_a_source_raises_is_raised_to_the_consumer_and_sources_are_closed() -> None:
    closed = []

    def raises(video: Video) -> Generator[TimedEvent, None, None]:
        try:
            yield TimedEvent(chunk(0), 0.0)
            if video is VIDEOS[1]:
                raise ZeroDivisionError("here")
            yield from (TimedEvent(chunk(1), 0.0) for _ in range(100))
        finally:
            closed.append(video)

    decoding = DecodeQueue(VIDEOS[:2], raises, num_decoders=2)
    with pytest.raises(ZeroDivisionError, match="here"), decoding:
        drain(decoding, in_order=False)
    assert sorted(closed, key=VIDEOS.index) == VIDEOS[:2]
