"""The allocation of an extraction: how many workers, how many cores each, and where frames are decoded.

On CPUs a worker is a process that holds its share of the cores: on each it computes batches, and its decoders are
threads beside them, which take a core only as often as frames run short. With GPUs a worker is a process that feeds
one of them. Threads of one process share Python's lock, which they hold for a third of the time that a small frame
takes: more than `MAX_DECODER_THREADS` are processes of the worker's own, which hand frames over in shared memory, and
cores on other nodes are reached through Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.core.stage import Resources
from pipeline.core.workers import ClusterNode

MAX_DECODER_THREADS: Final = 2
"""Measured: 16 threads in one process decode small frames as fast as 2 cores could (tests/RESULTS.md)."""
MIN_DECODER_THREADS: Final = 2
"""Beside a slow convnet decoders mostly wait, and one alone would leave a gap at the end of each video."""


@dataclass(frozen=True, kw_only=True)
class WorkerAllocation:
    """The workers and decoders of an extraction."""

    num_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    num_threads: int
    """Cores that compute the convnet, where that is not on a GPU."""
    num_decoders: int
    """Videos that are decoded side by side for each worker."""
    decodes_elsewhere: bool
    """A flag that decoders that are not threads or processes of the worker run on whichever node has cores."""
    num_processes: int = 0
    """Decoders that are processes of the worker, on its node and on cores that are reserved with it."""

    @property
    def num_cores(self) -> float:
        """Number of cores that all workers and decoders may use together."""
        num_elsewhere = (self.num_decoders - self.num_processes) * self.decodes_elsewhere
        return self.num_workers * (self.cpus_per_worker + num_elsewhere)


def allocate_workers(resources: Resources, nodes: Sequence[ClusterNode], num_shards: int) -> WorkerAllocation:
    """Allocates workers for `num_shards` shards on these nodes."""
    wanted = max(1, min(resources.num_workers, num_shards))
    if resources.gpus_per_worker:
        return _on_gpus(resources, nodes, wanted)
    return _on_cpus(resources, nodes, wanted)


def _on_cpus(resources: Resources, nodes: Sequence[ClusterNode], wanted: int) -> WorkerAllocation:
    """Shares all cores out evenly; a worker stays on one node."""
    num_cpus = sum(node.num_cpus for node in nodes)
    num_decoder_processes = resources.decoders_per_gpu or 0
    num_workers = min(wanted, max(1, num_cpus // (1 + num_decoder_processes)))
    # At least one core must be left, or processes that decode would wait for it for ever.
    decodes_elsewhere = bool(num_decoder_processes) and num_cpus > num_workers
    cores = _largest_share(nodes, num_workers)
    if decodes_elsewhere:
        cores = max(1, cores - num_decoder_processes)
    cores = max(cores, int(resources.cpus_per_worker))
    return WorkerAllocation(
        num_workers=num_workers,
        cpus_per_worker=cores,
        gpus_per_worker=0.0,
        num_threads=cores,
        num_decoders=num_decoder_processes or max(MIN_DECODER_THREADS, cores),
        decodes_elsewhere=decodes_elsewhere,
    )


def _largest_share(nodes: Sequence[ClusterNode], num_workers: int) -> int:
    """Returns the most cores that each of so many workers can have, none of them on two nodes; at least 1."""
    share = max(node.num_cpus for node in nodes)
    while share > 1 and sum(node.num_cpus // share for node in nodes) < num_workers:
        share -= 1
    return share


def _on_gpus(resources: Resources, nodes: Sequence[ClusterNode], wanted: int) -> WorkerAllocation:
    with_gpus = [node for node in nodes if node.num_gpus] or list(nodes)
    beside = min(int(node.num_cpus * resources.gpus_per_worker / max(1, node.num_gpus)) for node in with_gpus)
    elsewhere = sum(node.num_cpus for node in nodes if not node.num_gpus) // wanted
    # One core copies batches, launches the network and writes.
    num_local = max(0, beside - 1)
    num_decoders = max(1, min(resources.decoders_per_gpu or num_local + elsewhere, num_local + elsewhere))
    num_beside = min(num_decoders, num_local)
    decodes_elsewhere = num_decoders > num_local and elsewhere > 0
    return WorkerAllocation(
        num_workers=wanted,
        cpus_per_worker=1 + num_beside,
        gpus_per_worker=resources.gpus_per_worker,
        num_threads=1,
        num_decoders=num_decoders,
        decodes_elsewhere=decodes_elsewhere,
        num_processes=num_beside if decodes_elsewhere or num_decoders > MAX_DECODER_THREADS else 0,
    )
