"""Errors of full memory and disks, translated into ours, which say how to go on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pipeline.core.errors import OutOfMemory, StoreError

HOST_MARKS = ("can't allocate memory", "not enough memory", "bad allocation")
"""Parts of the message of torch's RuntimeError where malloc failed; it has no type of its own."""
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def translate_resource_errors(uri: str, num_sequences: int, resume: Callable[[], str]) -> Iterator[None]:
    """Turns errors of full memory or disks in the block into ours.

    uri: directory that the training writes to. num_sequences: sequences that a worker holds at once. resume: returns
      the sentence about where the next run goes on.

    Raises:
        OutOfMemory: the memory of the host or of a GPU is full.
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
