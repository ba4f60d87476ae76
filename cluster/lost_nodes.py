"""The exceptions by which Ray reports a lost process or node, and the test that separates the two."""

from __future__ import annotations

from typing import Final

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

from cluster.placement import alive_nodes

LOSS_ERRORS: Final = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""Exceptions of `ray.get` for a task that ran, or an object that lay, in a process that has died."""


def is_node_loss(error: RayError, node: str | None) -> bool:
    """Returns whether a whole node was lost or preempted, and not only the process that did the work.

    Args:
        node: id of the node on which the process ran, if known.
    """
    if isinstance(error, NodeDiedError | ObjectLostError):
        return True
    if isinstance(error, RayActorError) and error.preempted:
        return True
    return node is not None and node not in {entry["NodeID"] for entry in alive_nodes()}
