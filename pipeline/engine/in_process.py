"""Stages without Ray: one after the other in the calling process, on its GPU if it has one.

The keys are those of a run on Ray, and so are the bytes if Ray has one worker and the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.local_machine import count_cores
from cluster.session import FinishedTask
from pipeline.core.errors import PerceptsError
from pipeline.core.events import Emit, Event
from pipeline.core.workers import ClusterNode, Workers
from pipeline.engine.execute import StageTask, make_with
from pipeline.engine.store import Manifest


@dataclass
class InProcessSession:
    """A session whose tasks run to their end when they are started; their events are handled at once."""

    emit: Emit
    """The function that receives every event."""
    _finished: list[FinishedTask] = field(default_factory=list)

    def start(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Runs `function(*args)`. An exception that percepts raises on purpose is its result; any other is raised."""
        try:
            self._finished.append(FinishedTask(name=name, value=function(*args)))
        except PerceptsError as error:
            self._finished.append(FinishedTask(name=name, error=error))

    def finished(self, timeout_seconds: float) -> list[FinishedTask]:
        """Returns the tasks that ended since the last call, without waiting."""
        ended, self._finished = self._finished, []
        return ended

    def events(self) -> list[Event]:
        """Returns no event: each was handled when it was emitted."""
        return []

    def cancel(self) -> None:
        """Does nothing: no task is in flight when another function runs."""


def make_in_process(task: StageTask) -> Manifest:
    """Makes one artifact in this process, on its GPU if it has one; returns the manifest, which is written last."""
    import torch

    has_gpu, context = torch.cuda.is_available(), task.context
    resources = replace(
        context.resources,
        num_workers=1,
        min_workers=1,
        gpus_per_worker=1.0 if has_gpu else 0.0,
        # On CPUs this process has the threads of all workers that it stands for.
        cpus_per_worker=max(1.0, context.resources.num_workers * context.resources.cpus_per_worker),
    )
    if not has_gpu:
        torch.set_num_threads(int(resources.cpus_per_worker))
    workers = Workers(
        source=context.source,
        emit=context.emit,
        device="cuda" if has_gpu else "cpu",
        node=ClusterNode(num_cpus=count_cores(), num_gpus=int(has_gpu)),
    )
    return make_with(replace(task, context=replace(context, resources=resources)), workers)
