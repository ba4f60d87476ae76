"""Reports of a training that waits for its workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.placement import free_resources

MESSAGE_INTERVAL_SECONDS = 15.0


@contextmanager
def wait_messages(workers: str, has_begun: Callable[[], bool], wait: Callable[[str], None]) -> Iterator[None]:
    """Reports at intervals which workers are awaited and what is free, until `has_begun` or the end of the block."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(MESSAGE_INTERVAL_SECONDS):
            if has_begun():
                return
            wait(f"waiting for {workers} to begin; {free_resources()}")

    thread = threading.Thread(target=watch, name="waiting for workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
