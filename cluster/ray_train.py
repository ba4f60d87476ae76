"""A Ray Train group: the same loop on every worker, restarted when a worker is lost.

The loop keeps its own checkpoints, so a restart costs the steps since the last one. Losing a worker or a node is
retried `MAX_RESTARTS` times; an exception of the loop itself is never retried: it would come again. When one worker
is lost, the others fail too, in the collective operation that it left; such errors are told from the loop's own.
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
from pipeline.errors import PerceptsError, WorkerDied
from pipeline.files import remove

MAX_RESTARTS = 3

RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # How often the group is asked whether it is done or dead: the default, 2 s, is a long wait after a short training.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}
"""Environment variables of Ray Train; what the user has set stays."""

COLLECTIVE_MARKS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What a RuntimeError of torch.distributed says when another member has left; gloo's have no type of their own."""


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
    """Run `loop(payload, worker)` on `num_workers` workers; see `cluster.workers.Workers.train`.

    Raises:
        WorkerDied: workers were lost more than `MAX_RESTARTS` times.
        Exception: what the loop raised; of several, one that percepts raises on purpose.
    """
    try:
        for attempt in range(MAX_RESTARTS + 1):
            try:
                return _fit(loop, payload, name, num_workers, gpus_per_worker, scratch_uri, source, emit)
            except ray.train.TrainingFailedError as error:
                own = _own_error(error)
                if own is not None:
                    raise own from None
                reason = " ".join(str(error).split())[:200]
                if attempt == MAX_RESTARTS:
                    raise WorkerDied(f"training lost workers {attempt + 1} times, the last time: {reason}") from None
                emit(Log(source=source, line=f"lost a training worker ({reason}); resuming from the last checkpoint"))
    finally:
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
    for variable, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(variable, value)
    resources = {"CPU": 1.0} | ({"GPU": gpus_per_worker} if gpus_per_worker else {})
    TorchTrainer(
        member,
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(name=name, storage_path=scratch_uri, failure_config=FailureConfig(max_failures=0)),
    ).fit()


def _own_error(error: Any) -> BaseException | None:
    """What the loop raised, or None where workers were lost and everything else followed from that."""
    causes = [cause_of(failure) for failure in (getattr(error, "worker_failures", None) or {}).values()]
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
