"""The queue through which running stages report events to the driver, which displays them and writes them to MLflow."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import ray

from cluster.placement import this_node
from pipeline.core.events import Emit, Event


class _EventQueue:
    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(replace(event, at=time.monotonic()))

    def drain(self) -> list[Event]:
        drained, self._events = self._events, []
        return drained


@dataclass(frozen=True)
class _EventSender:
    event_queue: Any

    def __call__(self, event: Event) -> None:
        self.event_queue.put.remote(event)


def open_event_queue() -> tuple[Any, Emit]:
    """Starts the queue's actor; returns its handle and a picklable function that any process of the cluster can call.

    The actor runs on the driver's node, since only the driver reads it, and so that both have one monotonic clock.
    """
    event_queue = ray.remote(num_cpus=0, scheduling_strategy=this_node())(_EventQueue).remote()
    return event_queue, _EventSender(event_queue)
