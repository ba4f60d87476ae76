"""A worker of a training group, and the fencing token in the store that names the group which may write.

Ray may lose contact with a worker that lives on: its network is cut, its machine sleeps. The group is started again
without it, and the lost worker must not go on writing into the same directory. So rank 0 of every group writes its own
name into a small file of the store, once, and before it writes anything else there checks that the name is still there.
The file lies in the directory that it protects, so a worker that can write there can also read it: no clock, no lease
and no connection to another node is needed. The check and the write are not one operation. All writes are atomic, and
any group's checkpoint of a step is valid, so the worst case is a file that is written twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import nn

from cluster.placement import available_resources
from pipeline.core.errors import GroupReplaced
from pipeline.core.events import Emit
from pipeline.core.files import join, read_json, remove, write_json
from pipeline.core.workers import TrainWorker


class Regroup(Exception):
    """The end of a group after a checkpoint, on every worker, to restart with more. It never leaves `cluster`."""


@dataclass(frozen=True)
class FencingToken:
    """A file with the name of the group that may write, its size, its checkpoints and Ray Train's id of the run."""

    uri: str

    @classmethod
    def below(cls, scratch_uri: str) -> FencingToken:
        """Returns the token of the training with this scratch directory."""
        return cls(join(scratch_uri, "writer.json"))

    def write(self, writer: str, world_size: int, num_checkpoints: int, run_id: str) -> None:
        """Writes the token of this group over that of any group before it."""
        self.write_progress(writer, world_size, num_checkpoints)
        write_json(self.uri, {"writer": writer, "run_id": run_id})

    def write_progress(self, writer: str, world_size: int, num_checkpoints: int) -> None:
        """Writes how far a group is into a file of its own: one that was lost meanwhile cannot take the token back."""
        write_json(self._progress_uri(writer), {"world_size": world_size, "num_checkpoints": num_checkpoints})

    def read(self) -> dict[str, Any]:
        """Returns the fields of the token and the progress of its group; empty if no group has begun."""
        token = _read(self.uri)
        return token | _read(self._progress_uri(token["writer"])) if token else {}

    def _progress_uri(self, writer: str) -> str:
        return f"{self.uri}.{writer}"


@contextmanager
def scratch_directory(uri: str) -> Iterator[None]:
    """Removes a training's scratch directory at its end, well or by an error, unless another run has taken it over."""
    try:
        yield
    except GroupReplaced:
        raise
    except Exception:
        remove(uri)
        raise
    remove(uri)


def _read(uri: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = read_json(uri)
    except FileNotFoundError:
        return {}
    return fields


@dataclass
class RayTrainWorker(TrainWorker):
    """A worker inside a Ray Train worker, or alone in an actor. Call `begin` first."""

    source: str
    emit: Emit
    rank: int
    world_size: int
    device: torch.device
    token: FencingToken
    resources: dict[str, float]
    """Resources that each worker reserves, by Ray's name: CPU, GPU."""
    max_workers: int
    """The size up to which the group grows."""
    grow_after_seconds: float
    """The minimum age of a group below `max_workers` at which it checks, after a checkpoint, for free resources."""
    run_id: str = ""
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    _started: float = field(default_factory=time.monotonic)
    _num_checkpoints: int = 0

    def begin(self) -> None:
        """Writes the fencing token: from now on this group may write, and no group before it."""
        if self.rank == 0:
            self.token.write(self.name, self.world_size, 0, self.run_id)
            self.log(f"training on {self.world_size} worker{'s' if self.world_size > 1 else ''}")

    def check_fencing_token(self) -> None:
        if self.token.read().get("writer") != self.name:
            raise GroupReplaced(
                "another group has begun to train into this artifact, and this one must not write there any more: "
                "wait for the run that started it, or stop that one and run again"
            )

    def checkpointed(self) -> None:
        self._num_checkpoints += 1
        if self.rank == 0:
            self.token.write_progress(self.name, self.world_size, self._num_checkpoints)
        if self.world_size < self.max_workers and self.any(self.rank == 0 and self._could_grow()):
            raise Regroup

    def _could_grow(self) -> bool:
        if time.monotonic() - self._started < self.grow_after_seconds:
            return False
        free = available_resources()
        return all(free.get(name, 0.0) >= amount for name, amount in self.resources.items())

    def prepare(self, module: nn.Module) -> nn.Module:
        if self.world_size == 1:
            return module.to(self.device)
        from ray.train.torch import prepare_model  # takes a second to import, and needs a group of Ray Train

        prepared: nn.Module = prepare_model(module)
        return prepared

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def any(self, flag: bool) -> bool:
        if self.world_size == 1:
            return flag
        vote = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(vote, op=torch.distributed.ReduceOp.MAX)
        return bool(vote.item())
