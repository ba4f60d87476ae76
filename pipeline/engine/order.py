"""The order in which the stages of a plan start: those on the longest path first.

A training takes all its cores at once. Stages that were ready beside it, each of which takes any core that is free,
would keep it waiting, and with it all that is made of its model. So they start when it has begun.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pipeline.engine.plan import Node
from pipeline.engine.status import Step
from pipeline.engine.time_left import UNKNOWN_S


def remaining_seconds(steps: Sequence[Step]) -> dict[str, float]:
    """Returns, by the name of each stage, the seconds from its start to the end of the longest path through it."""
    remaining: dict[str, float] = {}
    after: dict[str, float] = {}
    for step in reversed(steps):
        own = 0.0 if step.have else UNKNOWN_S if step.estimate.seconds is None else step.estimate.seconds
        remaining[step.node.name] = own + after.get(step.node.name, 0.0)
        for parent in step.node.parents:
            after[parent.name] = max(after.get(parent.name, 0.0), remaining[step.node.name])
    return remaining


def startable(
    waiting: Sequence[Node],
    complete: Collection[str],
    not_begun: Sequence[Node],
    remaining: Mapping[str, float],
) -> list[Node]:
    """Returns the stages that may start now, the one with the longest path first.

    complete: names of stages that are made. not_begun: stages that were started and wait for their workers.
    """
    ready = [node for node in waiting if all(parent.name in complete for parent in node.parents)]
    ready.sort(key=lambda node: -remaining[node.name])

    def waits_for(node: Node, other: Node) -> bool:
        # What runs on cores alone does not keep a stage from its GPUs.
        may_compete = bool(node.resources.gpus_per_worker) or not other.resources.gpus_per_worker
        return may_compete and remaining[other.name] > remaining[node.name]

    return [node for node in ready if not any(waits_for(node, other) for other in (*not_begun, *ready))]
