"""Checkpoints of a training: `<directory>/step-00000200.safetensors`, each one whole file; the newest two are kept."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pipeline.errors import CorruptArtifact
from pipeline.files import join, list_files, remove
from stages.models.training import restore_training_state, save_training_state

NUM_KEPT = 2


def write_checkpoint(
    directory: str, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, extra: Mapping[str, Any]
) -> None:
    """Writes the state after `step` steps, then removes all but the newest `NUM_KEPT`. Only one worker may call it."""
    save_training_state(join(directory, f"step-{step:08d}.safetensors"), model, optimizer, step, extra)
    for name in list_files(directory)[:-NUM_KEPT]:
        remove(join(directory, name))


def newest_checkpoint(
    directory: str, model: nn.Module, optimizer: torch.optim.Optimizer, log: Callable[[str], None]
) -> tuple[int, dict[str, Any]] | None:
    """Puts the newest whole checkpoint back into model and optimiser; (steps done, extra), or None if there is none.

    A file that is not what was written (a disk that lies) is named to `log`, and the one before it is taken.

    Raises:
        CorruptArtifact: there are checkpoints and none is whole.
    """
    broken: CorruptArtifact | None = None
    for name in reversed(list_files(directory)):
        try:
            return restore_training_state(join(directory, name), model, optimizer)
        except CorruptArtifact as error:
            log(f"passing over a checkpoint: {error}")
            broken = error
    if broken is not None:
        raise CorruptArtifact(f"no checkpoint in {directory} is whole; remove that directory to start anew") from broken
    return None
