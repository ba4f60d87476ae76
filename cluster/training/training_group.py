"""A Ray Train group: the same loop on every worker, restarted after the loss of a worker and when more are free.

The loop keeps its own checkpoints, so a restart costs the steps since the last one. Every group is elastic: it starts
with as many workers as there are free resources for, from `min_workers` to `num_workers`, and the loop divides one
global batch between them, so that the trained model does not depend on their number.

Restarts and growth:

- Ray Train's own retries are off (`FailureConfig`): it retries a bug of the loop as often as the loss of a node. Here
  the two are separated (`cluster.training.failures`). An exception of the loop is never retried.
  The loss of a worker, node or controller is, up to `MAX_RESTARTS` times in a row. A checkpoint resets the count: on
  preemptible machines a night has many losses, and only losses without progress are a reason to stop. A node that the
  cloud takes back after a notice (Ray's "preemption") does not count.
- Ray Train's own growth is off (`elastic_resize_monitor_interval_s`): it would stop the group between two checkpoints
  and repeat steps. The group itself checks for free resources after it has written a checkpoint, and repeats none.

Time until a failure is detected:

- A node without connection: the head sends every node a health check and declares it dead after
  RAY_health_check_failure_threshold failures in a row. These are settings of the head (see ray_cluster.yaml).
- A worker that hangs on a live node: Ray Train waits `RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S`, ten minutes by default
  and one minute here. The loop runs in a thread beside the one that answers, so a long step is not taken for a hang.
- A collective operation that never ends, if both have missed it: `COLLECTIVE_TIMEOUT_SECONDS` instead of half an hour.
  It must be longer than rank 0 takes to write a checkpoint while the others wait.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray.train
import torch
from ray.train import PreemptionError, RunConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.config import FailureConfig, ScalingConfig  # ray.train's own, which mypy takes for version 1

from cluster.placement import free_resources
from cluster.ray_private import (
    apply_train_settings,
    backoff_callback,
    cancel_reservation,
    training_run_id,
    without_datasets,
)
from cluster.session import cause_of
from cluster.training.failures import describe_loss, error_of_loop
from cluster.training.fencing import FencingToken, RayTrainWorker, Regroup, scratch_directory
from cluster.training.torch_backend import NodeInterfaceConfig
from pipeline.core.error_words import one_line
from pipeline.core.errors import WorkerDied
from pipeline.core.events import Emit, EventSource
from pipeline.core.workers import TrainLoop

MAX_RESTARTS = 5
"""The number of losses in a row, without a checkpoint between them, after which training fails."""
GROW_AFTER_SECONDS = float(os.environ.get("PERCEPTS_GROW_AFTER_S", "60"))
"""The minimum age of a group below its full size before it checks for more workers: a restart costs 5 to 20 s."""
COLLECTIVE_TIMEOUT_SECONDS = 300
MESSAGE_INTERVAL_SECONDS = 15.0
BACKOFF_SECONDS = 0.5
"""The pause of Ray Train's controller after a search for free resources without result."""


@dataclass(frozen=True, kw_only=True)
class Group(EventSource):
    """The settings that all groups of one training share."""

    loop: TrainLoop
    payload: Any
    name: str
    num_workers: int
    min_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    scratch_uri: str
    """A directory below the store for Ray Train's own small state and the fencing token."""
    source: str
    emit: Emit

    @property
    def token(self) -> FencingToken:
        return FencingToken.below(self.scratch_uri)

    @property
    def resources(self) -> dict[str, float]:
        """The resources of each worker, by Ray's name."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})


def train_group(group: Group) -> None:
    """Runs `group.loop(payload, worker)` on all workers until it returns; implements `Workers.train`.

    Raises:
        WorkerDied: workers were lost more than `MAX_RESTARTS` times in a row without a checkpoint between.
        GroupReplaced: another run has begun the same training.
        Exception: the exception of the loop; if there are several, a PerceptsError before any other.
    """
    killed_run_id = group.token.read().get("run_id")
    if killed_run_id is not None:
        cancel_reservation(killed_run_id)
    restarts = _Restarts(group)
    with scratch_directory(group.scratch_uri):
        while True:
            before = group.token.read()
            try:
                _fit(group, restarts.grow_after_seconds)
                return
            except ray.train.TrainingFailedError as error:
                restarts.decide(error, before)


@dataclass
class _Restarts:
    """The decisions after the end of a group: whether to restart it, and how soon the next one may grow."""

    group: Group
    num_losses: int = 0
    """Losses in a row, without a checkpoint between them."""
    grow_after_seconds: float = GROW_AFTER_SECONDS

    def decide(self, error: Exception, before: dict[str, Any]) -> None:
        """Logs why the group is to be restarted and returns; raises if it is not to be restarted.

        Args:
            before: the fencing token when the group began.
        """
        failures = {rank: cause_of(failure) for rank, failure in getattr(error, "worker_failures", {}).items()}
        causes, token = list(failures.values()), self.group.token.read()
        if any(isinstance(cause, Regroup) for cause in causes):
            self.group.log(f"there is room for more workers than {token.get('world_size')}: going on with more")
            # Free resources that another job takes first must not stop the training at every checkpoint.
            grew = not before or token.get("world_size") != before.get("world_size")
            self.grow_after_seconds = GROW_AFTER_SECONDS if grew else 2 * self.grow_after_seconds
            return
        loop_error = error_of_loop(causes)
        if loop_error is not None:
            raise loop_error from None
        if isinstance(error, PreemptionError):
            self.group.log("a node is taken away; resuming without it from the last checkpoint")
            return
        if token != before and token.get("num_checkpoints"):
            self.num_losses = 0
        self.num_losses += 1
        loss = describe_loss(failures) or one_line(error)
        if self.num_losses > MAX_RESTARTS:
            raise WorkerDied(f"training lost workers {self.num_losses} times in a row, at last {loss}") from None
        self.group.log(f"lost a training worker ({loss}); resuming from the last checkpoint")


def _fit(group: Group, grow_after_seconds: float) -> None:
    def run_worker() -> None:
        torch.set_num_threads(max(1, int(group.cpus_per_worker)))
        context = ray.train.get_context()
        worker = RayTrainWorker(
            source=group.source,
            emit=group.emit,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=get_device(),
            token=group.token,
            resources=group.resources,
            max_workers=group.num_workers,
            grow_after_seconds=grow_after_seconds,
            run_id=training_run_id(),
        )
        worker.begin()
        group.loop(group.payload, worker)

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    apply_train_settings()
    trainer = TorchTrainer(
        run_worker,
        torch_config=NodeInterfaceConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=(group.min_workers, group.num_workers),
            elastic_resize_monitor_interval_s=math.inf,
            use_gpu=group.gpus_per_worker > 0,
            resources_per_worker=group.resources,
        ),
        run_config=RunConfig(
            name=group.name,
            storage_path=group.scratch_uri,
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            callbacks=[backoff_callback(BACKOFF_SECONDS)],  # type: ignore[list-item]  # typed as UserCallback, and takes Ray's own
        ),
    )
    before = group.token.read()
    with wait_messages(_awaited(group), lambda: group.token.read() != before, group.wait):
        without_datasets(trainer).fit()


def _awaited(group: Group) -> str:
    """Returns `1 to 4 training workers of 2 CPUs each`: a worker begins where one node has all that it needs."""
    low, high = group.min_workers, group.num_workers
    needs = " and ".join(f"{amount:g} {name}{'s' if amount != 1 else ''}" for name, amount in group.resources.items())
    return f"{high if low == high else f'{low} to {high}'} training workers of {needs} each on one node"


@contextmanager
def wait_messages(workers: str, has_begun: Callable[[], bool], wait: Callable[[str, float], None]) -> Iterator[None]:
    """Reports at intervals which workers are awaited and what is free, until `has_begun` or the end of the block."""
    ended, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not ended.wait(MESSAGE_INTERVAL_SECONDS):
            if has_begun():
                return
            wait(f"waiting for {workers} to begin; {free_resources()}", time.monotonic() - began)

    thread = threading.Thread(target=watch, name="waiting for workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
