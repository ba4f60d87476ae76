"""The placement of tasks and actors: the calling process's node, and the free resources of the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from cluster.ray_private import may_grow
from pipeline.core.errors import UsageError
from pipeline.core.stage import Resources

JOIN_SECONDS: Final = 15.0
"""The time that nodes of a cluster of fixed machines may take to join before a request is refused."""
ROUNDING: Final = 1e-9
"""Three workers of a third of a GPU fit on one."""


def node_id() -> str:
    """Returns the id of the node on which the calling process runs."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def this_node() -> Any:
    """Schedules a task or actor on the node of the calling process, and nowhere else."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def alive_nodes() -> list[dict[str, Any]]:
    """Returns Ray's description of every node that is alive: `NodeID`, `Resources` and more."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's has no types


def available_resources() -> dict[str, float]:
    """Returns the free amount of each resource of the cluster; what is used up is left out."""
    import ray

    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray's has no types
    return free


def free_resources() -> str:
    """Returns the cluster's free CPUs and GPUs in words, such as `1 of 2 CPUs free, 0 of 0 GPUs free`."""
    import ray

    free = available_resources()
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's has no types
    return ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}s free" for name in ("CPU", "GPU"))


def check_cluster(needs: Iterable[Resources]) -> None:
    """Checks that the nodes of the cluster hold the workers without which a stage does not begin.

    An autoscaler is taken to add what is missing. Without one, nodes that are joining are waited for, shortly.

    Raises:
        UsageError: they do not; the message says what there is, and what to do.
    """
    wanted = dict.fromkeys((each.min_workers, each.cpus_per_worker, each.gpus_per_worker) for each in needs)
    until = time.monotonic() + JOIN_SECONDS
    while unmet := [need for need in wanted if _num_held(*need[1:]) < need[0]]:
        if may_grow():
            return
        if time.monotonic() >= until:
            raise UsageError(_refusal(*unmet[0]))
        time.sleep(1.0)


def _num_held(num_cpus: float, num_gpus: float) -> int:
    """Returns how many workers of so many cores and GPUs the nodes hold when they do nothing else."""
    each = {"CPU": num_cpus or 1.0, "GPU": num_gpus}
    return sum(
        min(int(node["Resources"].get(name, 0) / amount + ROUNDING) for name, amount in each.items() if amount)
        for node in alive_nodes()
    )


def _refusal(num_workers: int, num_cpus: float, num_gpus: float) -> str:
    resources = [node["Resources"] for node in alive_nodes()]
    largest = [max((of_node.get(name, 0) for of_node in resources), default=0) for name in ("CPU", "GPU")]
    return (
        f"a stage needs {num_workers} workers of {num_cpus:g} cores and {num_gpus:g} GPUs, and the cluster holds "
        f"{_num_held(num_cpus, num_gpus)} of them ({len(resources)} nodes of at most {largest[0]:g} cores and "
        f"{largest[1]:g} GPUs, and no autoscaler): give less of --workers, --train-threads or --gpus-per-worker, or "
        "add nodes"
    )
