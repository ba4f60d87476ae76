"""What a training does until it has workers: it says what it waits for, and leaves the processor alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    TrainControllerState,
)

from cluster.placement import free_resources

NOTICE_SECONDS = 15.0
POLL_SECONDS = 0.5


class Patience(ControllerCallback):
    """Pauses Ray Train's controller each time that it has looked for room and found none.

    By itself (Ray 2.60) the controller of an elastic group looks again at once, and keeps a core busy for as long as it
    waits: several trainings that queue for one machine would take it from the one that runs.
    """

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Called by the controller, which asks the cluster at most once a second."""
        waits = isinstance(current_state, (InitializingState, ReschedulingState, RestartingState))
        if waits and current_state is previous_state:
            time.sleep(POLL_SECONDS)


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
