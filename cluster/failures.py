"""What the failures of a training group mean: a bug of the loop, or workers that were lost.

When one worker is lost, the others fail too, in the collective operation that it left: such errors are told from the
loop's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed

from cluster.ray_private import is_from_ray, loss_cause, node_address
from pipeline.core.errors import PerceptsError

REASON_CHARACTERS = 200

COLLECTIVE_MARKS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What a RuntimeError of torch.distributed says when another member has left; gloo's have no type of their own."""


def loss_in_words(failures: Mapping[int, BaseException]) -> str | None:
    """In words: which worker was lost, where, and to what; None where Ray does not say."""
    for rank, cause in sorted(failures.items()):
        if not is_from_ray(cause):
            continue
        text = " ".join(str(cause).split())
        address = node_address(text)
        where = f" on {address}" if address else ""
        return f"number {rank}{where}: {loss_cause(text) or text[:REASON_CHARACTERS]}"
    return None


def one_line(error: BaseException) -> str:
    """The beginning of what it says."""
    return " ".join(str(error).split())[:REASON_CHARACTERS]


def own_error(causes: list[BaseException]) -> BaseException | None:
    """What the loop raised, or None where workers were lost and everything else followed from that."""
    for cause in causes:
        if isinstance(cause, PerceptsError):
            return cause
    lost = any(is_from_ray(cause) for cause in causes)
    for cause in causes:
        # In a group that has lost a member, any plain RuntimeError may be the echo of it.
        echo = _is_echo(cause) or (lost and type(cause) is RuntimeError)
        if not echo and not is_from_ray(cause):
            return cause
    return None


def _is_echo(cause: BaseException) -> bool:
    """Whether a collective operation failed because another member was gone."""
    if isinstance(cause, torch.distributed.DistError):
        return True
    return type(cause) is RuntimeError and any(mark in str(cause) for mark in COLLECTIVE_MARKS)
