"""A Ray Train group: the same loop on every worker, begun again when a worker is lost and when more can be had.

The loop keeps its own checkpoints, so a new beginning costs the steps since the last one. Every group is elastic: it
starts with as many workers as there is room for, from `min_workers` to `num_workers`, and the loop shares one global
batch between them, so that what is learned does not depend on how many they are.

Who decides what, and why:

- Ray Train's own retries are off (`FailureConfig`): it retries a bug of the loop as patiently as a lost node. Here the
  two are told apart. An exception of the loop is never retried, since it would come again; a lost worker, node or
  controller is, up to `MAX_RESTARTS` times in a row. A group that has reached a checkpoint begins the count anew: on
  preemptible machines a night has many losses, and only losses without progress are a reason to give up. A node that
  the cloud takes back with notice (Ray's "preemption") is not counted at all.
- Ray Train's own growing is off (`elastic_resize_monitor_interval_s`): it would stop the group between two checkpoints
  and repeat steps. The group itself looks for room after writing a checkpoint, and then repeats none.
- When one worker is lost, the others fail too, in the collective operation that it left; such errors are told from the
  loop's own.

How long it takes to notice, worst case first:

- A node that is cut off: the head asks every node for a sign of life and gives it up after
  RAY_health_check_failure_threshold unanswered questions. These are settings of the head (see ray_cluster.yaml).
- A worker that hangs on a node that lives: Ray Train waits `RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S`, by default ten
  minutes; here one. Its answer comes from a thread beside the training, so a long step does not count as hanging.
- A collective operation without end, should both have missed it: `COLLECTIVE_TIMEOUT_SECONDS` instead of half an hour.
  It must be longer than the first worker takes to write a checkpoint while the others wait.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train import PreemptionError, RunConfig
from ray.train.torch import TorchTrainer, get_device
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2.api.config import FailureConfig, ScalingConfig

from cluster.events import Emit, Log
from cluster.membership import Mark, Member, Regroup
from cluster.session import cause_of, free_resources
from cluster.torch_backend import NodeInterfaceConfig
from cluster.workers import TrainLoop
from pipeline.errors import GroupReplaced, PerceptsError, WorkerDied
from pipeline.files import join, remove

MAX_RESTARTS = 5
"""Losses in a row, without a checkpoint between them, after which training gives up."""
GROW_AFTER_SECONDS = float(os.environ.get("PERCEPTS_GROW_AFTER_S", "60"))
"""How long a group that is too small has trained at least before it looks for more workers: a start costs 5 to 20 s."""
COLLECTIVE_TIMEOUT_SECONDS = 300
WAIT_NOTICE_SECONDS = 15.0
MARK_FILE = "writer.json"

RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # How often the group is asked whether it is done or dead: the default, 2 s, is a long wait after a short training.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
}
"""Environment variables of Ray Train; what the user has set stays."""

COLLECTIVE_MARKS = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What a RuntimeError of torch.distributed says when another member has left; gloo's have no type of their own."""


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
    """Run `group.loop(payload, worker)` on all workers until it returns; see `cluster.workers.Workers.train`.

    Raises:
        WorkerDied: workers were lost more than `MAX_RESTARTS` times in a row without a checkpoint between.
        Exception: what the loop raised; of several, one that percepts raises on purpose.
    """
    _release_lost_run(group.mark.read().get("run_id"))
    num_losses, grow_after_seconds = 0, GROW_AFTER_SECONDS
    while True:
        before = group.mark.read()
        try:
            _fit(group, grow_after_seconds)
            break
        except ray.train.TrainingFailedError as error:
            causes = [cause_of(failure) for failure in (getattr(error, "worker_failures", None) or {}).values()]
            mark = group.mark.read()
            if any(isinstance(cause, Regroup) for cause in causes):
                group.log(f"there is room for more workers than {mark.get('world_size')}: going on with more")
                # Room that cannot be had after all must not stop the training at every checkpoint.
                grew = not before or mark.get("world_size", 0) != before.get("world_size", 0)
                grow_after_seconds = GROW_AFTER_SECONDS if grew else 2 * grow_after_seconds
                continue
            own = _own_error(causes)
            if own is not None:
                if not isinstance(own, GroupReplaced):  # then the directory is another run's
                    remove(group.scratch_uri)
                raise own from None
            reason = " ".join(str(causes[0] if causes else error).split())[:200]
            if isinstance(error, PreemptionError):
                group.log("a node is taken away; resuming without it from the last checkpoint")
                continue
            if mark != before and mark.get("num_checkpoints"):
                num_losses = 0
            num_losses += 1
            if num_losses > MAX_RESTARTS:
                remove(group.scratch_uri)
                raise WorkerDied(f"training lost workers {num_losses} times in a row, at last: {reason}") from None
            group.log(f"lost a training worker ({reason}); resuming from the last checkpoint")
    remove(group.scratch_uri)


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
            run_id=get_train_context().train_run_context.run_id,
        )
        worker.begin()
        group.loop(group.payload, worker)

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    for variable, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(variable, value)
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
        ),
    )
    with _notices_while_waiting(group):
        trainer.fit()


def _release_lost_run(run_id: str | None) -> None:
    """Gives back what a killed driver's training has reserved.

    Ray keeps the request of an elastic group in an actor that outlives the driver, for three minutes, and lends nobody
    else the resources: a job that is submitted again would wait for its own ghost.
    """
    if run_id is None:
        return
    try:
        coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
    except ValueError:  # a new cluster
        return
    ray.get(coordinator.cancel_request.remote(f"train-{run_id}"))


@contextmanager
def _notices_while_waiting(group: Group) -> Iterator[None]:
    """Says every so often what is waited for, until a worker has begun."""
    before, ended = group.mark.read(), threading.Event()

    def watch() -> None:
        while not ended.wait(WAIT_NOTICE_SECONDS):
            if group.mark.read() != before:
                return
            wanted = _range(group.min_workers, group.num_workers)
            group.log(f"waiting for {wanted} training workers to begin; {free_resources()}")

    thread = threading.Thread(target=watch, name="waiting for workers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _range(low: int, high: int) -> str:
    return f"{high}" if low == high else f"{low} to {high}"


def _own_error(causes: list[BaseException]) -> BaseException | None:
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
