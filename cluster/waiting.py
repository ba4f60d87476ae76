"""Messages of a training that waits for its workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cluster.placement import free_resources

NOTICE_SECONDS = 15.0
POLL_SECONDS = 0.5
"""Pause of Ray Train's controller after a search for free resources without result."""


@contextmanager
def notices(wanted: str, has_begun: Callable[[], bool], log: Callable[[str], None]) -> Iterator[None]:
    """Says every so often what is waited for, until a worker has begun."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(NOTICE_SECONDS):
            if has_begun():
                return
            log(f"waiting for {wanted} training workers to begin; {free_resources()}")

    thread = threading.Thread(target=watch, name="waiting for workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
