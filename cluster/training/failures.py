"""A classification of a training group's failures: an error of the loop itself, or the loss of workers.

When one worker is lost, the others fail too, in the collective operation that it left. Such secondary errors are
separated from errors of the loop.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed

from cluster.ray_private import is_from_ray, loss_cause, node_address
from pipeline.core.error_words import one_line
from pipeline.core.errors import PerceptsError

COLLECTIVE_TEXTS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""Texts of the RuntimeErrors that torch.distributed raises when a peer has left; gloo's errors have no type."""


def describe_loss(failures: Mapping[int, BaseException]) -> str | None:
    """Returns which worker was lost, on which node and why, in a few words; None if no failure comes from Ray.

    Args:
        failures: rank of a worker -> its exception.
    """
    for rank, cause in sorted(failures.items()):
        if not is_from_ray(cause):
            continue
        message = one_line(cause, None)
        address = node_address(message)
        where = f" on {address}" if address else ""
        return f"number {rank}{where}: {loss_cause(message) or one_line(cause)}"
    return None


def error_of_loop(causes: list[BaseException]) -> BaseException | None:
    """Returns the exception that the loop raised, or None if every failure follows from the loss of workers."""
    for cause in causes:
        if isinstance(cause, PerceptsError):
            return cause
    is_worker_lost = any(is_from_ray(cause) for cause in causes)
    for cause in causes:
        # In a group that has lost a worker, any plain RuntimeError may be a consequence of the loss.
        is_secondary = _is_collective_error(cause) or (is_worker_lost and type(cause) is RuntimeError)
        if not is_secondary and not is_from_ray(cause):
            return cause
    return None


def _is_collective_error(cause: BaseException) -> bool:
    """Returns whether a collective operation failed because a peer had left."""
    if isinstance(cause, torch.distributed.DistError):
        return True
    return type(cause) is RuntimeError and any(text in str(cause) for text in COLLECTIVE_TEXTS)
