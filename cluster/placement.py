"""The placement of tasks and actors: the calling process's node, and the free resources of the cluster."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from cluster.ray_private import may_grow
from pipeline.core.errors import UsageError
from pipeline.core.stage import Resources
from pipeline.core.workers import ClusterNode, num_held

JOIN_SECONDS: Final = 15.0
"""The time that nodes of a cluster of fixed machines may take to join before a request is refused."""
LEAST_IF_GROWING: Final = 2
"""The fewest workers of a stage on a growing cluster: one that has no machine yet starts some."""


def node_id() -> str:
    """Returns the id of the node on which the calling process runs."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def this_node() -> Any:
    """Schedules a task or actor on the node of the calling process, and nowhere else."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def each_node() -> Iterator[Any]:
    """Yields the nodes that have cores, again and again, as places of actors that reserve none.

    Ray itself puts such an actor on any node: several on one, or on a head that is to do no work.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ids = [entry["NodeID"] for entry in alive_nodes() if entry["Resources"].get("CPU", 0) >= 1]
    return (NodeAffinitySchedulingStrategy(each, soft=True) for each in itertools.cycle(ids))


def alive_nodes() -> list[dict[str, Any]]:
    """Returns Ray's description of every node that is alive: `NodeID`, `Resources` and more."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray's has no types


def available_resources() -> dict[str, float]:
    """Returns the free amount of each resource of the cluster; what is used up is left out."""
    import ray

    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray's has no types
    return free


def cluster_nodes() -> tuple[ClusterNode, ...]:
    """Returns the machines that are alive now and have at least one core."""
    return tuple(
        ClusterNode(num_cpus=int(of_node["CPU"]), num_gpus=int(of_node.get("GPU", 0)))
        for of_node in (entry["Resources"] for entry in alive_nodes())
        if of_node.get("CPU", 0) >= 1
    )


def take_what_is_there(resources: Resources) -> tuple[Resources, str]:
    """Returns the resources of a stage that takes what the cluster's nodes hold now, and words that say so."""
    nodes = cluster_nodes()
    taken = resources.on_nodes(nodes)
    words = f"takes {taken.words}, what the cluster's {len(nodes)} nodes hold"
    if may_grow():
        if resources.is_auto_workers:
            taken = replace(taken, num_workers=max(LEAST_IF_GROWING, taken.num_workers))
        words = f"takes {taken.words}, by the nodes that are there; --workers N asks its autoscaler for more"
    return taken, words


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
    while unmet := [need for need in wanted if num_held(cluster_nodes(), *need[1:]) < need[0]]:
        if may_grow():
            return
        if time.monotonic() >= until:
            raise UsageError(_refusal(*unmet[0]))
        time.sleep(1.0)


def _refusal(num_workers: int, num_cpus: float, num_gpus: float) -> str:
    resources = [node["Resources"] for node in alive_nodes()]
    largest = [max((of_node.get(name, 0) for of_node in resources), default=0) for name in ("CPU", "GPU")]
    num_workers_held = num_held(cluster_nodes(), num_cpus, num_gpus)
    return (
        f"a stage needs {num_workers} workers of {num_cpus:g} cores and {num_gpus:g} GPUs, and the cluster holds "
        f"{num_workers_held} of them ({len(resources)} nodes of at most {largest[0]:g} cores and "
        f"{largest[1]:g} GPUs, and no autoscaler): give less of --workers, --train-threads or --gpus-per-worker, or "
        "add nodes"
    )
