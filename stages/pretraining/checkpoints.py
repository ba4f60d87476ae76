"""Checkpoints of a training, each one whole file; on any fsspec store; and the step whose weights are kept.

    <directory>/step-00000200.safetensors    all that a resume needs; the newest few are kept
    <directory>/best-00000150.safetensors    weights of the best validation, where the training keeps them

A checkpoint holds its history, and the history names the best step. So the best weights are kept by their step: one
file for each step that was the best at a checkpoint that is still there, and for any later one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import join, list_files, remove
from stages.models.weights import read_tensors, write_tensors
from stages.pretraining.config import EarlyStopConfig
from stages.pretraining.optimisation import restore_training_state, save_training_state

STATE, BEST, SUFFIX = "step-", "best-", ".safetensors"
Validations = Sequence[Mapping[str, Any]]
"""The validations of a history, with `step` and `loss`, in the order of their steps. What is decided by them is a pure
function of them, so that a resume agrees."""


def best_step(validations: Validations) -> int:
    """Returns the step of the smallest loss; of equal ones, the first."""
    return int(min(validations, key=lambda point: point["loss"])["step"])


def has_plateaued(config: EarlyStopConfig, validations: Validations) -> bool:
    """Returns True where the validation loss has not improved for `patience` validations in a row."""
    if not config.patience:
        return False
    best, num_since = float("inf"), 0
    for point in validations:
        # Losses may be negative nowhere: they are squared errors and cross-entropies.
        if point["loss"] < best * (1.0 - config.min_improvement):
            best, num_since = point["loss"], 0
        else:
            num_since += 1
    return num_since >= config.patience


def write_checkpoint(
    directory: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    extra: Mapping[str, Any],
    *,
    average: nn.Module | None = None,
    num_kept: int = 2,
) -> None:
    """Writes the state after `step` steps, then removes all but the newest `num_kept`. Only one worker may call it.

    extra: JSON-able, with `history`.
    """
    save_training_state(join(directory, f"{STATE}{step:08d}{SUFFIX}"), model, optimizer, step, extra, average=average)
    states = _steps(directory, STATE)
    for old in states[:-num_kept]:
        remove(join(directory, f"{STATE}{old:08d}{SUFFIX}"))
    oldest = states[-num_kept:][0]
    validations = [point for point in extra["history"]["validation"] if point["step"] <= oldest]
    needed = best_step(validations) if validations else 0
    for old in _steps(directory, BEST):
        if old < needed:
            remove(join(directory, f"{BEST}{old:08d}{SUFFIX}"))


def newest_checkpoint(
    directory: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    log: Callable[[str], None],
    *,
    average: nn.Module | None = None,
) -> tuple[int, dict[str, Any]] | None:
    """Puts the newest whole checkpoint back into model and optimiser.

    Returns (steps done, extra), or None if there is none. A file whose content is not what was written is named to
    `log`, and the one before it is taken.

    Raises:
        CorruptArtifact: there are checkpoints and none is whole.
    """
    broken: CorruptArtifact | None = None
    for step in reversed(_steps(directory, STATE)):
        try:
            return restore_training_state(
                join(directory, f"{STATE}{step:08d}{SUFFIX}"), model, optimizer, average=average
            )
        except CorruptArtifact as error:
            log(f"passing over a checkpoint: {error}")
            broken = error
    if broken is not None:
        raise CorruptArtifact(f"no checkpoint in {directory} is whole; remove that directory to start anew") from broken
    return None


def newest_step(directory: str) -> int | None:
    """Returns the number of steps done at the newest checkpoint, by its name; None if there is none."""
    steps = _steps(directory, STATE)
    return steps[-1] if steps else None


def write_best(directory: str, model: nn.Module, step: int) -> None:
    """Keeps the weights of step `step`, which validated better than all before."""
    header = {"class": "Best", "step": step}
    write_tensors(join(directory, f"{BEST}{step:08d}{SUFFIX}"), model.state_dict(), header, is_checked=True)


def restore_best(directory: str, model: nn.Module, validations: Validations) -> None:
    """Puts the weights of the best validation into the model. Raises SourceError, CorruptArtifact."""
    tensors, _ = read_tensors(join(directory, f"{BEST}{best_step(validations):08d}{SUFFIX}"))
    model.load_state_dict(tensors)


def _steps(directory: str, prefix: str) -> list[int]:
    names = [name for name in list_files(directory) if name.startswith(prefix) and name.endswith(SUFFIX)]
    return sorted(int(name.removeprefix(prefix).removesuffix(SUFFIX)) for name in names)
