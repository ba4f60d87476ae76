"""A Ray Train group: the same loop on every worker, begun again when a worker is lost and when more can be had.

The loop keeps its own checkpoints, so a new beginning costs the steps since the last one. Every group is elastic: it
starts with as many workers as there is room for, from `min_workers` to `num_workers`, and the loop shares one global
batch between them, so that what is learned does not depend on how many they are.

Who decides what, and why:

- Ray Train's own retries are off (`FailureConfig`): it retries a bug of the loop as patiently as a lost node. Here the
  two are told apart (`cluster.failures`). An exception of the loop is never retried, since it would come again; a lost
  worker, node or controller is, up to `MAX_RESTARTS` times in a row. A group that has reached a checkpoint begins the
  count anew: on preemptible machines a night has many losses, and only losses without progress are a reason to give up.
  A node that the cloud takes back with notice (Ray's "preemption") is not counted at all.
- Ray Train's own growing is off (`elastic_resize_monitor_interval_s`): it would stop the group between two checkpoints
  and repeat steps. The group itself looks for room after writing a checkpoint, and then repeats none.

How long it takes to notice:

- A node that is cut off: the head asks every node for a sign of life and gives it up after
  RAY_health_check_failure_threshold unanswered questions. These are settings of the head (see ray_cluster.yaml).
- A worker that hangs on a node that lives: Ray Train waits `RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S`, by default ten
  minutes; here one. The training runs in a thread beside the one that answers, so a long step is no hanging.
- A collective operation without end, should both have missed it: `COLLECTIVE_TIMEOUT_SECONDS` instead of half an hour.
  It must be longer than the first worker takes to write a checkpoint while the others wait.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from typing import Any

import ray.train
import torch
from ray.train import PreemptionError, RunConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2.api.config import FailureConfig, ScalingConfig  # ray.train's own, which mypy takes for version 1

from cluster.failures import loss_in_words, one_line, own_error
from cluster.fencing import Mark, Member, Regroup
from cluster.ray_private import apply_train_settings, backoff_callback, cancel_reservation, training_run_id
from cluster.session import cause_of
from cluster.torch_backend import NodeInterfaceConfig
from cluster.waiting import POLL_SECONDS, notices
from pipeline.core.errors import GroupReplaced, WorkerDied
from pipeline.core.events import Emit, Log
from pipeline.core.files import join, remove
from pipeline.core.workers import TrainLoop

MAX_RESTARTS = 5
"""Losses in a row, without a checkpoint between them, after which training gives up."""
GROW_AFTER_SECONDS = float(os.environ.get("PERCEPTS_GROW_AFTER_S", "60"))
"""How long a group that is too small has trained at least before it looks for more workers: a start costs 5 to 20 s."""
COLLECTIVE_TIMEOUT_SECONDS = 300
MARK_FILE = "writer.json"


@dataclass(frozen=True, kw_only=True)
class Group:
    """What all groups of one training share."""

    loop: TrainLoop
    payload: Any
    name: str
    num_workers: int
    min_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    scratch_uri: str
    """Below the store: Ray Train's own small state, and the mark of the group that may write."""
    source: str
    emit: Emit

    @property
    def mark(self) -> Mark:
        return Mark(join(self.scratch_uri, MARK_FILE))

    @property
    def resources(self) -> dict[str, float]:
        """Of each worker."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})

    def log(self, line: str) -> None:
        self.emit(Log(source=self.source, line=line))


def train_group(group: Group) -> None:
    """Run `group.loop(payload, worker)` on all workers until it returns; see `pipeline.core.workers.Workers.train`.

    Raises:
        WorkerDied: workers were lost more than `MAX_RESTARTS` times in a row without a checkpoint between.
        GroupReplaced: another run has begun the same training.
        Exception: what the loop raised; of several, one that percepts raises on purpose.
    """
    killed_run_id = group.mark.read().get("run_id")
    if killed_run_id is not None:
        cancel_reservation(killed_run_id)
    restarts = _Restarts(group)
    try:
        while True:
            before = group.mark.read()
            try:
                _fit(group, restarts.grow_after_seconds)
                break
            except ray.train.TrainingFailedError as error:
                restarts.judge(error, before)
    except GroupReplaced:  # what lies there is the other run's
        raise
    except Exception:
        remove(group.scratch_uri)
        raise
    remove(group.scratch_uri)


@dataclass
class _Restarts:
    """Whether a group that has ended is begun again, and how soon the next one may look for more workers."""

    group: Group
    num_losses: int = 0
    """In a row, without a checkpoint between them."""
    grow_after_seconds: float = GROW_AFTER_SECONDS

    def judge(self, error: Exception, before: dict[str, Any]) -> None:
        """Returns where the group is to be begun again, having said why; `before`: the mark when the group began."""
        failures = {rank: cause_of(failure) for rank, failure in getattr(error, "worker_failures", {}).items()}
        causes, mark = list(failures.values()), self.group.mark.read()
        if any(isinstance(cause, Regroup) for cause in causes):
            self.group.log(f"there is room for more workers than {mark.get('world_size')}: going on with more")
            # Room that cannot be had after all must not stop the training at every checkpoint.
            grew = not before or mark.get("world_size") != before.get("world_size")
            self.grow_after_seconds = GROW_AFTER_SECONDS if grew else 2 * self.grow_after_seconds
            return
        own = own_error(causes)
        if own is not None:
            raise own from None
        if isinstance(error, PreemptionError):
            self.group.log("a node is taken away; resuming without it from the last checkpoint")
            return
        if mark != before and mark.get("num_checkpoints"):
            self.num_losses = 0
        self.num_losses += 1
        loss = loss_in_words(failures) or one_line(error)
        if self.num_losses > MAX_RESTARTS:
            raise WorkerDied(f"training lost workers {self.num_losses} times in a row, at last {loss}") from None
        self.group.log(f"lost a training worker ({loss}); resuming from the last checkpoint")


def _fit(group: Group, grow_after_seconds: float) -> None:
    def member() -> None:
        torch.set_num_threads(max(1, int(group.cpus_per_worker)))
        context = ray.train.get_context()
        worker = Member(
            source=group.source,
            emit=group.emit,
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            device=get_device(),
            mark=group.mark,
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
        member,
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
            callbacks=[backoff_callback(POLL_SECONDS)],  # type: ignore[list-item]  # Ray names its users' alone, and takes its own
        ),
    )
    before = group.mark.read()
    with notices(_range(group.min_workers, group.num_workers), lambda: group.mark.read() != before, group.log):
        trainer.fit()


def _range(low: int, high: int) -> str:
    return f"{high}" if low == high else f"{low} to {high}"
