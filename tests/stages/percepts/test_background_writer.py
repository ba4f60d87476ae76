"""Writing in the background: rows in the order of the calls, in bounded memory, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import pytest

from stages.percepts import background_writer
from stages.percepts.background_writer import BackgroundWriter
from stages.percepts.writer import ShardWriter


class Recorder:
    """Stands in for a ShardWriter; waits before each row where it is told to."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.fails_at = -1

    def write(self, video: str, frames_N: Any, *others: Any) -> None:
        assert self.may_go_on.wait(240)
        if int(frames_N[0]) == self.fails_at:
            raise OSError("the disk is full")
        self.rows.append(int(frames_N[0]))


def write(writer: BackgroundWriter, number: int, num_bytes: int = 2) -> None:
    frames_N = np.array([number], np.int32)
    writer.write("0", frames_N, frames_N.astype(np.int64), frames_N, np.zeros((1, num_bytes // 2), np.float16))


def background(recorder: Recorder) -> BackgroundWriter:
    return BackgroundWriter(cast(ShardWriter, recorder))


def write_all(recorder: Recorder, numbers: Iterable[int]) -> BackgroundWriter:
    with background(recorder) as writer:
        for number in numbers:
            write(writer, number)
    return writer


def test_every_row_in_order() -> None:
    recorder = Recorder()
    writer = write_all(recorder, range(100))
    assert recorder.rows == list(range(100))
    assert writer.busy_s > 0


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_writer, "MAX_WAITING_BYTES", 10)
    recorder = Recorder()
    recorder.may_go_on.clear()
    accepted: list[int] = []

    def produce(writer: BackgroundWriter) -> None:
        for number in range(8):
            write(writer, number, num_bytes=4)
            accepted.append(number)

    with background(recorder) as writer:
        producer = threading.Thread(target=produce, args=(writer,))
        producer.start()
        producer.join(0.5)
        # 4 bytes each: the third may come in at 8 bytes of 10, the fourth waits.
        assert accepted == [0, 1, 2]
        recorder.may_go_on.set()
        producer.join(240)
    assert recorder.rows == list(range(8))


def test_an_error_is_raised_where_rows_come_from() -> None:
    recorder = Recorder()
    recorder.fails_at = 3
    for numbers in (range(10_000), [3]):  # in the midst of others, and the last of all
        with pytest.raises(OSError, match="the disk is full"):
            write_all(recorder, numbers)
    assert recorder.rows == [0, 1, 2]


def test_rows_that_wait_are_dropped_where_the_block_raises() -> None:
    recorder = Recorder()
    recorder.may_go_on.clear()

    def numbers() -> Iterator[int]:
        yield from range(5)
        threading.Timer(0.2, recorder.may_go_on.set).start()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_all(recorder, numbers())
    assert len(recorder.rows) <= 1
