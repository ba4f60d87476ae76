"""One actor that collects what running stages say, so that one process shows it and writes it to MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from cluster.placement import this_node
from pipeline.core.events import Emit, Event


class _Mailbox:
    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        self._events.append(event)

    def drain(self) -> list[Event]:
        drained, self._events = self._events, []
        return drained


@dataclass(frozen=True)
class _Post:
    mailbox: Any

    def __call__(self, event: Event) -> None:
        self.mailbox.put.remote(event)


def open_mailbox() -> tuple[Any, Emit]:
    """The actor's handle, and a picklable function that posts to it from anywhere in the cluster.

    It lives on the driver's node, as the driver that reads it does.
    """
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=this_node())(_Mailbox).remote()
    return mailbox, _Post(mailbox)
