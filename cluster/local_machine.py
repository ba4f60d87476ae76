"""The machine of this process: what it has for workers, and whether a local Ray can start there."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Final

from pipeline.core.errors import UsageError
from pipeline.core.workers import ClusterNode

MAX_SOCKET_BYTES: Final = 107
"""The longest path of a Unix socket on Linux."""
SOCKET: Final = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket of Ray below the folder for temporary files; a process id has seven digits at most."""
PROCESSES_A_CORE: Final = 8
"""The most cores that a local Ray may count for each real one: it starts a process for every core that it counts."""


def check_local(*, num_cpus: int | None, cpus_per_worker: float, gpus_per_worker: float, min_workers: int = 1) -> None:
    """Checks that a local Ray of `num_cpus` cores (None: all of this machine's) can start, and start such workers.

    Raises:
        UsageError: it could not; the message says what there is, and what to do.
    """
    there = count_cores()
    if num_cpus is not None and num_cpus > PROCESSES_A_CORE * there:
        raise UsageError(
            f"--num-cpus {num_cpus} is more than {PROCESSES_A_CORE} times the {there} cores of this machine; give less"
        )
    cores = num_cpus or there
    if cpus_per_worker > cores:
        raise UsageError(
            f"--train-threads asks for {cpus_per_worker:g} cores for a worker, and this machine gives {cores}: "
            "give less, or --address of a cluster that has them"
        )
    num_gpus = count_gpus() if gpus_per_worker else 0
    if gpus_per_worker > num_gpus:
        raise UsageError(
            f"--gpus-per-worker {gpus_per_worker:g} is more than the {num_gpus} GPUs of this machine: leave it out, "
            "or give --address of a cluster that has them"
        )
    if min_workers * cpus_per_worker > cores or min_workers * gpus_per_worker > num_gpus:
        gpus = f" and {min_workers * gpus_per_worker:g} GPUs" if gpus_per_worker else ""
        raise UsageError(
            f"--workers asks for at least {min_workers} workers, of {min_workers * cpus_per_worker:g} cores{gpus} "
            f"together, and this machine gives {cores} and {num_gpus}: give fewer, or --address of a cluster"
        )
    if gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker):
        raise UsageError(f"--gpus-per-worker is {gpus_per_worker:g}; Ray gives out whole GPUs: round it up or down")
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    length = len(os.fsencode(os.path.join(os.path.abspath(folder), SOCKET)))
    if length > MAX_SOCKET_BYTES:
        raise UsageError(
            f"the name of the folder for temporary files, {folder}, is {length - MAX_SOCKET_BYTES} characters too long "
            "for Ray's sockets in it: set RAY_TMPDIR to a shorter one, such as /tmp"
        )
    try:
        os.makedirs(os.path.join(folder, "ray"), exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"Ray cannot write to the folder for temporary files, {folder} ({error.strerror}): set RAY_TMPDIR to one "
            "that it can, such as /tmp"
        ) from error


def cluster_address(address: str | None) -> str | None:
    """Returns the address of the Ray cluster to join: `address`, else RAY_ADDRESS; None: a local Ray is started."""
    address = (address or os.environ.get("RAY_ADDRESS", "")).strip()
    return None if address in ("", "local") else address


def this_machine(num_cpus: int | None = None) -> ClusterNode:
    """Returns this machine with so many of its cores (None: all), and the GPUs that the installed torch can use."""
    return ClusterNode(num_cpus=num_cpus or count_cores(), num_gpus=count_gpus() if has_cuda() else 0)


def has_cuda() -> bool:
    """Returns whether the installed torch was built for NVIDIA's GPUs; it is not imported, which takes seconds."""
    return not version("torch").endswith("+cpu")


def count_cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Returns the number of this machine's cores, or of those that its container may use.

    limit: the file of control groups, version 2, that holds the microseconds of processor time in each period.
    """
    there = os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
    except (OSError, ValueError):  # there are no control groups, or of version 1
        return there
    return there if quota == "max" else max(1, min(there, int(quota) // int(period)))


def count_gpus() -> int:
    """Returns the number of NVIDIA GPUs that Ray would find here: those of CUDA_VISIBLE_DEVICES, else all."""
    import pynvml

    try:
        pynvml.nvmlInit()
        num_gpus = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:  # there is no driver
        return 0
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return num_gpus
    names = [name.strip() for name in visible.split(",")]
    return min(num_gpus, sum(name not in ("", "-1", "NoDevFiles") for name in names))
