"""The two commands that every rendered file calls: one submits a run to a cluster, one is the run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from cluster.rendering.settings import ClusterSettings

SYSTEMD_SAFE = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


def submit_command(settings: ClusterSettings) -> list[str]:
    """Returns the command that submits the run to a running cluster and ends with its status.

    It may be called at any time and twice: a run of the same plan is joined, another run of the store is left alone.
    """
    on_failure = ["--on-failure", settings.run.on_failure] if settings.run.on_failure else []
    return ["percepts", "submit", *_recipe(settings), "--wait", "--if-running", "skip", *on_failure]


def run_command(settings: ClusterSettings) -> list[str]:
    """Returns the command that is the run: the driver of a Ray job, or a process on a node of the cluster."""
    return ["python", "-m", "pipeline.run", *_recipe(settings)]


def shell_line(command: Sequence[str]) -> str:
    """Returns the command as one line of a shell."""
    return shlex.join(command)


def systemd_line(command: Sequence[str]) -> str:
    """Returns the command as systemd's ExecStart= reads it: its own quotes, % and $ doubled."""
    return " ".join(_systemd_word(word) for word in command)


def _recipe(settings: ClusterSettings) -> list[str]:
    run = settings.run
    tracking = ["--tracking-uri", run.tracking_uri] if run.tracking_uri else []
    return [run.recipe, *run.options, "--store", run.store, *tracking]


def _systemd_word(word: str) -> str:
    word = word.replace("%", "%%").replace("$", "$$")
    if SYSTEMD_SAFE.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
