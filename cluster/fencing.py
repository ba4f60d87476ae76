"""One member of a training group, and the mark in the store that says which group may write.

Ray may lose sight of a worker that lives on: its node's cable is cut, its machine sleeps. The group is started again
without it, and the lost worker must not go on writing into the same directory. So the first member of every group
leaves its own name in a small file of the store, and looks, before it writes anything else there, whether the name is
still its own. The file lies where the writing goes, so a worker that can write can also read it; no clock, no lease and
no node of the cluster has to be reached. What remains is the time between the look and the write: all writes are
atomic, and any group's checkpoint of a step is a valid one, so that the worst is a file that is written twice.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
import torch.distributed
from ray.train.torch import prepare_model
from torch import nn

from pipeline.core.errors import GroupReplaced
from pipeline.core.events import Emit, Log, Metrics, Progress
from pipeline.core.files import read_json, write_json


class Regroup(Exception):
    """The group ends after a checkpoint, on every member, to come back larger. Never leaves `cluster`."""


@dataclass(frozen=True)
class Mark:
    """Which group writes: its name, its members, the checkpoints that it has written, and Ray Train's id of the run."""

    uri: str

    def write(self, writer: str, world_size: int, num_checkpoints: int, run_id: str) -> None:
        """Make it the mark of this group."""
        found = {"writer": writer, "world_size": world_size, "num_checkpoints": num_checkpoints, "run_id": run_id}
        write_json(self.uri, found)

    def read(self) -> dict[str, Any]:
        """The mark; empty where there is none."""
        try:
            found: dict[str, Any] = read_json(self.uri)
        except FileNotFoundError:
            return {}
        return found


@dataclass
class Member:
    """`pipeline.core.workers.TrainWorker` inside a Ray Train worker. Begin with `begin()`."""

    source: str
    emit: Emit
    rank: int
    world_size: int
    device: torch.device
    mark: Mark
    resources: dict[str, float]
    """What each member reserves."""
    max_workers: int
    """The group wants to be as large."""
    grow_after_seconds: float
    """A group that is too small looks for more workers when it has lived as long, at its next checkpoint."""
    run_id: str = ""
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    _started: float = field(default_factory=time.monotonic)
    _num_checkpoints: int = 0

    def begin(self) -> None:
        """From now on this group may write, and no group before it."""
        if self.rank == 0:
            self.mark.write(self.name, self.world_size, 0, self.run_id)
            self.log(f"training on {self.world_size} worker{'s' if self.world_size > 1 else ''}")

    def claim(self) -> None:
        found = self.mark.read()
        if found.get("writer") != self.name:
            raise GroupReplaced(
                "another group has begun to train into this artifact, and this one must not write there any more: "
                "wait for the run that started it, or stop that one and run again"
            )

    def checkpointed(self) -> None:
        self._num_checkpoints += 1
        if self.rank == 0:
            self.mark.write(self.name, self.world_size, self._num_checkpoints, self.run_id)
        if self.world_size < self.max_workers and self.any(self.rank == 0 and self._could_grow()):
            raise Regroup

    def _could_grow(self) -> bool:
        if time.monotonic() - self._started < self.grow_after_seconds:
            return False
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return all(free.get(name, 0.0) >= amount for name, amount in self.resources.items())

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
