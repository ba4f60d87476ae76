"""A Ray Train group: the same loop on every worker, restarted when a worker is lost.

The loop keeps its own checkpoints, so a restart costs the steps since the last one. Losing a worker or a node is
retried `MAX_RESTARTS` times; an exception of the loop itself is never retried: it would come again.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model
from torch import nn

from cluster.events import Emit, Log, Metrics, Progress
from cluster.session import cause_of
from cluster.workers import TrainLoop
from pipeline.files import remove

MAX_RESTARTS = 3


@dataclass(frozen=True)
class _Member:
    """`cluster.workers.TrainWorker` inside a Ray Train worker."""

    source: str
    emit: Emit
    rank: int
    world_size: int
    device: torch.device

    def prepare(self, module: nn.Module) -> nn.Module:
        prepared: nn.Module = prepare_model(module)
        return prepared

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.emit(Progress(source=self.source, done=done, total=total, unit=unit, note=note))

    def metrics(self, step: int, **values: float) -> None:
        self.emit(Metrics(source=self.source, step=step, values=values))

    def log(self, line: str) -> None:
        self.emit(Log(source=self.source, line=line))

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def any(self, flag: bool) -> bool:
        if self.world_size == 1:
            return flag
        vote = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
        return bool(vote.item())


def train_group(
    loop: TrainLoop,
    payload: Any,
    *,
    name: str,
    num_workers: int,
    gpus_per_worker: float,
    scratch_uri: str,
    source: str,
    emit: Emit,
) -> None:
    """Run `loop(payload, worker)` on `num_workers` workers; see `cluster.workers.Workers.train`."""
    for attempt in range(MAX_RESTARTS + 1):
        try:
            _fit(loop, payload, name, num_workers, gpus_per_worker, scratch_uri, source, emit)
            break
        except ray.train.TrainingFailedError as error:
            own = _own_error(error)
            if own is not None:
                raise own from None
            if attempt == MAX_RESTARTS:
                raise
            reason = " ".join(str(error).split())[:200]
            emit(Log(source=source, line=f"lost a training worker ({reason}); resuming from the last checkpoint"))
    remove(scratch_uri)


def _fit(
    loop: TrainLoop,
    payload: Any,
    name: str,
    num_workers: int,
    gpus_per_worker: float,
    scratch_uri: str,
    source: str,
    emit: Emit,
) -> None:
    def member() -> None:
        train_context = ray.train.get_context()
        loop(
            payload,
            _Member(source, emit, train_context.get_world_rank(), train_context.get_world_size(), get_device()),
        )

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    resources = {"CPU": 1.0} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    TorchTrainer(
        member,
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name=name, storage_path=scratch_uri, failure_config=FailureConfig(max_failures=0)),
    ).fit()


def _own_error(error: Any) -> BaseException | None:
    """What the loop raised, or None where workers were lost."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        cause = cause_of(failure)
        if not isinstance(cause, ray.exceptions.RayError):
            return cause
    return None
