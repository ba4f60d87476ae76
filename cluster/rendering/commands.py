"""The two commands that every rendered file calls: one submits a run to a cluster, one is the run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cluster.rendering.settings import ClusterSettings
from pipeline.core.stage import Resources
from pipeline.core.workers import ClusterNode

SYSTEMD_SAFE = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


def submit_command(settings: ClusterSettings, nodes: Sequence[ClusterNode] = ()) -> list[str]:
    """Returns the command that submits the run to a running cluster and ends with its status.

    It may be called at any time and twice: a run of the same plan is joined, another run of the store is left alone.

    nodes: all machines that the cluster may have; the command names the workers that fit on them, where the run's
    options name none. Without any, a stage takes what the cluster has when it begins.
    """
    on_failure = ["--on-failure", settings.run.on_failure] if settings.run.on_failure else []
    return ["percepts", "submit", *_recipe(settings, nodes), "--wait", "--if-running", "skip", *on_failure]


def run_command(settings: ClusterSettings, nodes: Sequence[ClusterNode]) -> list[str]:
    """Returns the command that is the run: the driver of a Ray job, or a process on a node of the cluster.

    nodes: as for `submit_command`.
    """
    return ["python", "-m", "pipeline.run", *_recipe(settings, nodes)]


def growing_nodes(settings: ClusterSettings) -> list[ClusterNode]:
    """Returns all machines that the autoscaler may start."""
    return [
        ClusterNode(num_cpus=node.cpus, num_gpus=node.gpus)
        for node in settings.workers.values()
        for _ in range(node.max_workers)
    ]


def allocated_nodes(settings: ClusterSettings) -> list[ClusterNode]:
    """Returns the machines of an allocation of Slurm."""
    slurm = settings.slurm
    return slurm.nodes * [ClusterNode(num_cpus=slurm.cpus_per_node, num_gpus=slurm.gpus_per_node)]


def systemd_line(command: Sequence[str]) -> str:
    """Returns the command as systemd's ExecStart= reads it: its own quotes, % and $ doubled."""
    return " ".join(_systemd_word(word) for word in command)


def _recipe(settings: ClusterSettings, nodes: Sequence[ClusterNode]) -> list[str]:
    run = settings.run
    tracking = ["--tracking-uri", run.tracking_uri] if run.tracking_uri else []
    named = {word.partition("=")[0] for word in run.options}
    workers = Resources.of_workers("auto", is_auto_gpus=True).on_nodes(nodes)
    asked = (
        {"--workers": f"1:{workers.num_workers}", "--gpus-per-worker": f"{workers.gpus_per_worker:g}"} if nodes else {}
    )
    given = [word for name, value in asked.items() if name not in named for word in (name, value)]
    return [run.recipe, *run.options, *given, "--store", run.store, *tracking]


def _systemd_word(word: str) -> str:
    word = word.replace("%", "%%").replace("$", "$$")
    if SYSTEMD_SAFE.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
