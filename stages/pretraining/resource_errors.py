"""What ends a training from outside, said so that a person knows what to do: memory and disks that are full."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.core.errors import OutOfMemory, StoreError

HOST_MARKS = ("can't allocate memory", "not enough memory", "bad allocation")
"""What a RuntimeError of torch says where malloc failed; it has no type of its own."""
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def translate_resource_errors(uri: str, num_sequences: int, resume: Callable[[], str]) -> Iterator[None]:
    """Turns such errors of the block into one of ours.

    uri: where the training writes. num_sequences: that a worker holds at once. resume: says from where it can go on.

    Raises:
        OutOfMemory: of the host or of a GPU.
        StoreError: the disk behind `uri` is full.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        where = _memory_of(error)
        if where is None:
            raise
        raise OutOfMemory(
            f"{where} ran out of memory with {num_sequences} sequences at once ({_first_line(error)}): give "
            f"--max-sequences-per-worker {max(1, num_sequences // 2)}, which changes neither batch nor loss; {resume()}"
        ) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StoreError(f"no space is left to write a checkpoint to {uri}: free some there; {resume()}") from error


def _memory_of(error: Exception) -> str | None:
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU"
    if isinstance(error, MemoryError) or any(mark in str(error) for mark in HOST_MARKS):
        return "this machine"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
