"""What the failures of a training group mean: a bug of the loop, or workers that were lost.

When one worker is lost, the others fail too, in the collective operation that it left: such errors are told from the
loop's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.distributed

from pipeline.core.errors import PerceptsError

LOSSES = {
    "node has died": "its node is gone",
    "node was terminated": "its node is gone",
    "has been hanging": "it does not answer",
    "actor died": "its process died",
}
"""What Ray says of a worker -> what it means. Nodes come first: of a process on one, Ray says that it died as well."""
REASON_CHARACTERS = 200

COLLECTIVE_MARKS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What a RuntimeError of torch.distributed says when another member has left; gloo's have no type of their own."""


def loss_in_words(failures: Mapping[int, BaseException]) -> str | None:
    """In words: which worker was lost, where, and to what; None where Ray does not say."""
    for rank, cause in sorted(failures.items()):
        if not _is_from_ray(cause):
            continue
        text = " ".join(str(cause).split())
        address = re.search(r"(?:node_ip='|\bip: )([0-9a-fA-F.:]+)", text)
        where = f" on {address[1].rstrip('.')}" if address else ""
        for words, meaning in LOSSES.items():
            if words in text:
                return f"number {rank}{where}: {meaning}"
        return f"number {rank}{where}: {text[:REASON_CHARACTERS]}"
    return None


def one_line(error: BaseException) -> str:
    """The beginning of what it says."""
    return " ".join(str(error).split())[:REASON_CHARACTERS]


def own_error(causes: list[BaseException]) -> BaseException | None:
    """What the loop raised, or None where workers were lost and everything else followed from that."""
    for cause in causes:
        if isinstance(cause, PerceptsError):
            return cause
    lost = any(_is_from_ray(cause) for cause in causes)
    for cause in causes:
        # In a group that has lost a member, any plain RuntimeError may be the echo of it.
        echo = _is_echo(cause) or (lost and type(cause) is RuntimeError)
        if not echo and not _is_from_ray(cause):
            return cause
    return None


def _is_from_ray(cause: BaseException) -> bool:
    """Whether Ray itself says this of a worker: it died, or does not answer. Ray Train's types for it are private."""
    return type(cause).__module__.partition(".")[0] == "ray"


def _is_echo(cause: BaseException) -> bool:
    """Whether a collective operation failed because another member was gone."""
    if isinstance(cause, torch.distributed.DistError):
        return True
    return type(cause) is RuntimeError and any(mark in str(cause) for mark in COLLECTIVE_MARKS)
