"""What Ray says when a process or a node is lost, and whose fault that is."""

from __future__ import annotations

from typing import Final

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

LOSSES: Final = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""Raised by `ray.get` for what ran, or lay, in a process that is gone."""


def is_nodes_fault(error: RayError, node: str | None) -> bool:
    """Whether a whole node was lost or taken away, and not only the process that did the work.

    `node` is the node that it ran on, where that is known.
    """
    if isinstance(error, NodeDiedError | ObjectLostError):
        return True
    if isinstance(error, RayActorError) and error.preempted:
        return True
    alive = {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}  # type: ignore[no-untyped-call]
    return node is not None and node not in alive


def in_one_line(error: BaseException) -> str:
    """Ray's message, shortened."""
    return " ".join(str(error).split())[:300]
