"""Options that every recipe takes: where things are made and how, never what."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from pipeline.core.errors import ConfigError
from pipeline.core.flags import Inline
from pipeline.core.stage import Resources
from pipeline.engine.cost_options import CostOptions
from pipeline.engine.store import DEFAULT_STORE


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every recipe. Those of this class never change what is made, only where and how."""

    plan: bool = False
    """Print what is there, what would be made and why, with estimates; start nothing."""
    store: str = DEFAULT_STORE
    """Directory or fsspec URL (s3://...) that holds everything made; begun where there is none."""
    tracking_uri: str | None = None
    """MLflow tracking server or database; default: SQLite in the store."""
    address: str | None = None
    """Ray cluster to join, HOST:PORT; default: RAY_ADDRESS, else a local Ray."""
    num_cpus: int | None = None
    """Cores of a local Ray; default: all of this machine's."""
    workers: str = "2"
    """Worker processes of each stage: extractors, members of the training group; the latter goes on with fewer while
    nodes are lost, and with all again when they are back. MIN:MAX, such as 4:8, never lets it train with fewer than
    MIN: it waits instead. The batch of a step, and what is learned, are the same for any number."""
    gpus_per_worker: float = 0.0
    """GPUs of each worker of the stages that use one (extract, pretrain); 0 runs on CPUs."""
    decoders_per_gpu: int | None = None
    """Cores that decode video for each GPU (or CPU worker) of extract, on any node; default: what the nodes have."""
    train_threads: int = 1
    """Cores of each member of a training group on CPUs, which then has `workers` / `train_threads` members. On one
    machine threads are faster than as many members, whose gradients must travel."""
    max_sequences_per_worker: int | None = None
    """Sequences that a member of the training group holds in memory at once; default: its whole share of a batch. A
    larger share is worked off in parts: less memory, the same batch and the same loss."""
    keep_checkpoints: int = 2
    """Checkpoints of a training that stay while it runs: the newest so many."""
    cache: str | None = None
    """Directory on each node for what is read from a remote store; default: PERCEPTS_CACHE, else below /tmp. Local
    stores are read where they are."""
    cache_gigabytes: float | None = None
    """Most that the cache may hold (10^9 bytes); the least recently used goes first. Default: all but a tenth of the
    disk."""
    register: str | None = None
    """Register the pretrained encoder with MLflow: NAME or NAME@ALIAS; models:/NAME@ALIAS then loads it."""
    costs: Inline[CostOptions] = CostOptions()

    def __post_init__(self) -> None:
        if self.train_threads < 1:
            raise ConfigError(f"train_threads is {self.train_threads}; it must be at least 1")
        if self.cache_gigabytes is not None and not self.cache_gigabytes > 0:
            raise ConfigError(f"cache_gigabytes is {self.cache_gigabytes}; it must be above 0")
        _ = self.on_devices

    @property
    def on_cpus(self) -> Resources:
        """For stages that need no GPU."""
        return Resources.of_workers(self.workers)

    @property
    def on_devices(self) -> Resources:
        """For stages that use a GPU where there is one."""
        return Resources.of_workers(
            self.workers,
            gpus_per_worker=self.gpus_per_worker,
            max_sequences_per_worker=self.max_sequences_per_worker,
            num_checkpoints_kept=self.keep_checkpoints,
            decoders_per_gpu=self.decoders_per_gpu,
        )

    @property
    def to_train(self) -> Resources:
        """For a training group: as `on_devices`, but on CPUs of fewer members with several threads each."""
        found = self.on_devices
        threads = 1 if self.gpus_per_worker else min(found.num_workers, self.train_threads)
        return replace(
            found,
            num_workers=found.num_workers // threads,
            min_workers=max(1, found.min_workers // threads),
            cpus_per_worker=float(threads),
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables that every process of the run is to have, on every node."""
        named = {
            "PERCEPTS_CACHE": self.cache,
            "PERCEPTS_CACHE_GIGABYTES": self.cache_gigabytes,
            "MLFLOW_TRACKING_URI": os.environ.get("MLFLOW_TRACKING_URI"),
        }
        return {name: str(value) for name, value in named.items() if value is not None}
