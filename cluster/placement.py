"""The placement of tasks and actors: the calling process's node, and the free resources of the cluster."""

from __future__ import annotations

from typing import Any


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
