"""A training on one worker of one machine: an actor, where a group of Ray Train is four processes that import torch.

The machine itself is the driver's: no other node can be lost and none can join, so the worker is replaced where its
process dies, and goes on from the newest checkpoint of the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.training.fencing import FencingToken, RayTrainWorker
from pipeline.core.events import Emit
from pipeline.core.workers import TrainLoop


@dataclass(frozen=True, kw_only=True)
class SingleWorkerFactory:
    """The parts that the actor is built of; it returns the function that runs the loop on a payload."""

    loop: TrainLoop
    source: str
    emit: Emit
    scratch_uri: str
    """The directory of the fencing token: a worker of a driver that was killed may live on for a moment."""
    num_threads: int
    device: str

    def __call__(self) -> Callable[[Any], None]:
        import torch

        torch.set_num_threads(self.num_threads)
        worker = RayTrainWorker(
            source=self.source,
            emit=self.emit,
            rank=0,
            world_size=1,
            device=torch.device(self.device),
            token=FencingToken.below(self.scratch_uri),
            resources={},
            max_workers=1,
            grow_after_seconds=0.0,
        )
        worker.begin()
        return lambda payload: self.loop(payload, worker)
