"""Options that every recipe takes: where things are made and how, never what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from pipeline.costing import CostOptions
from pipeline.errors import ConfigError
from pipeline.stage import Resources


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every recipe. Those of this class never change what is made, only where and how."""

    plan: bool = False
    """Print what is there, what would be made and why, with estimates; start nothing."""
    store: str = ".percepts"
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
    train_threads: int = 1
    """Cores of each member of a training group on CPUs, which then has `workers` / `train_threads` members. On one
    machine threads are faster than as many members, whose gradients must travel."""
    costs: Annotated[CostOptions, tyro.conf.arg(name="")] = CostOptions()
    """For --plan."""

    def __post_init__(self) -> None:
        if self.train_threads < 1:
            raise ConfigError(f"train_threads is {self.train_threads}; it must be at least 1")

    @property
    def on_cpus(self) -> Resources:
        """For stages that need no GPU."""
        return Resources.of_workers(self.workers)

    @property
    def on_devices(self) -> Resources:
        """For stages that use a GPU where there is one."""
        return Resources.of_workers(self.workers, gpus_per_worker=self.gpus_per_worker)

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
