"""Every kind of file that starts a cluster or a schedule, by name."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from cluster.rendering import kubernetes
from cluster.rendering.commands import (
    allocated_nodes,
    growing_nodes,
    run_command,
    submit_command,
    systemd_line,
)
from cluster.rendering.settings import ClusterSettings

Files = dict[str, str]
"""File name -> text."""


def ray_up(settings: ClusterSettings) -> Files:
    """Returns the file for `ray up`, on EC2."""
    submit = shlex.join(submit_command(settings, growing_nodes(settings)))
    return {"ray_cluster.yaml": _filled("ray_cluster.yaml.j2", settings, submit=submit)}


def slurm(settings: ClusterSettings) -> Files:
    """Returns an sbatch script that starts Ray on the allocated nodes and runs the recipe there."""
    text = _filled("slurm.sbatch.j2", settings, run=shlex.join(run_command(settings, allocated_nodes(settings))))
    return {f"{settings.name}.sbatch": text}


def systemd(settings: ClusterSettings) -> Files:
    """Returns a service that submits the run, and the timer that starts the service."""
    service = _filled("percepts.service.j2", settings, submit=systemd_line(submit_command(settings)))
    return {f"{settings.name}.service": service, f"{settings.name}.timer": _filled("percepts.timer.j2", settings)}


def local(settings: ClusterSettings) -> Files:
    """Returns a script that starts Ray on machines of one's own and submits the run."""
    text = _filled("local.sh.j2", settings, submit=shlex.join(submit_command(settings)))
    return {f"{settings.name}.sh": text}


RENDERERS: Final[dict[str, Callable[[ClusterSettings], Files]]] = {
    "ray-up": ray_up,
    "raycluster": lambda settings: {"raycluster.yaml": kubernetes.ray_cluster(settings)},
    "rayjob": lambda settings: {"rayjob.yaml": kubernetes.ray_job(settings)},
    "cronjob": lambda settings: {"cronjob.yaml": kubernetes.cron_job(settings)},
    "raycronjob": lambda settings: {"raycronjob.yaml": kubernetes.ray_cron_job(settings)},
    "slurm": slurm,
    "systemd": systemd,
    "local": local,
}
"""Kind -> the function that renders it."""

SCHEDULED: Final = frozenset({"cronjob", "raycronjob", "slurm", "systemd", "local"})
"""Kinds whose files hold the schedule."""


def _filled(template: str, settings: ClusterSettings, **commands: str) -> str:
    environment = Environment(
        loader=PackageLoader("cluster.rendering"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # scripts and YAML, not HTML
    )
    environment.filters["quote"] = shlex.quote
    return environment.get_template(template).render(settings=settings, **commands)
