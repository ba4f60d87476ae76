"""Options that every recipe takes: where things are made and how, never what."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

from cluster.local_machine import cluster_address, count_gpus, has_cuda, this_machine
from pipeline.core.addresses.model_uris import TRACKING_VARIABLE
from pipeline.core.errors import ConfigError
from pipeline.core.files import ATTEMPTS_VARIABLE, absolute
from pipeline.core.flags import Inline
from pipeline.core.numbers import check_numbers
from pipeline.core.secrets import remember
from pipeline.core.stage import Resources
from pipeline.engine.cost_options import CostOptions
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.engine.tracking.values import HIGHER_IS_BETTER, LOWER_IS_BETTER, allowed_name, lower_is_better

MOST_TRAINERS: Final = 8
"""The most workers that auto starts to train on this machine's cores, as gradients must travel: a guess."""
MAX_NAME: Final = 240
"""The longest name of a run, an experiment or a model: the columns of MLflow's database have 250 characters or more."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every recipe. They never change what is made, only where and how."""

    plan: bool = False
    """Print what is there, what would be made and why, with estimates, and start nothing."""
    store: str = DEFAULT_STORE
    """Directory or fsspec URL (s3://...) that everything is written to; it is begun where there is none."""
    tracking_uri: str | None = None
    """MLflow tracking server or database that records the run; default: SQLite in the store."""
    address: str | None = None
    """HOST:PORT of the Ray cluster that the run joins; default: RAY_ADDRESS, else a local Ray is started."""
    look_again: bool = False
    """Look again at every rejected video, also where its bytes were the reason. Those that could not be read (a server,
    a network, credentials) are looked at again by every run."""
    in_process: bool = False
    """Run every stage in this process, one after the other and without Ray, on its GPU if it has one; MLflow is
    optional then."""
    tracking: bool = True
    """Record the run in MLflow; --no-tracking records nothing."""
    num_cpus: int | None = None
    """Cores that a local Ray uses; default: all of this machine's."""
    workers: str = "auto"
    """Worker processes of each stage; auto starts as many as this machine, or the cluster, has room for. A training
    goes on with fewer while nodes are lost, and with all again when they are back. MIN:MAX, such as 4:8, makes it wait
    while there are fewer than MIN. The batch of a step, and what is learned, are the same for any number."""
    gpus_per_worker: float | Literal["auto"] = "auto"
    """GPUs that each worker of extract, pretrain and other stages with matrix products gets; auto is 1 where there are
    GPUs. 0 runs on CPUs."""
    decoders_per_gpu: int | None = None
    """Cores that decode video for each GPU (or CPU worker) of extract, on any node; default: what the nodes have."""
    train_threads: int | None = None
    """Cores that each worker of a training on CPUs computes on; there are then --workers / --train-threads of them. On
    one machine threads are faster than as many workers, whose gradients must travel. The default is 1, and with
    --workers auto on this machine 2, or an eighth of its cores."""
    max_sequences_per_worker: int | None = None
    """Largest micro-batch of a training worker; default: its whole share of a batch. A larger share is split and its
    gradients accumulated."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that are kept while a training runs."""
    cache: str | None = None
    """Directory on each node that files of a remote store are copied to; default: PERCEPTS_CACHE, else below /tmp.
    Local stores are read where they are."""
    cache_gigabytes: float | None = None
    """Size in 10^9 bytes above which the least recently used files leave the cache; default: all but a tenth of the
    disk."""
    run_name: str | None = None
    """Name of the run in MLflow; default: the recipe with what differs from its defaults."""
    experiment: str | None = None
    """Experiment of MLflow that the run is in, below percepts/; default: the recipe's name."""
    log: str = "text"
    """Form of the progress: text, or json for one JSON object a line on stdout; everything else then goes to stderr."""
    tag: tuple[str, ...] = ()
    """Tags of the run in MLflow, each NAME=VALUE."""
    register: str | None = None
    """Register the pretrained encoder with MLflow as NAME or NAME@ALIAS; models:/NAME@ALIAS then loads it."""
    if_better: str | None = None
    """Metric by which --register moves the alias: only if this run beats the model that holds it, such as
    forecast_error/composite LSTM. Where the holder was tested on other data, the run measures it by its own test, too.
    The model is registered either way."""
    costs: Inline[CostOptions] = CostOptions()

    def __post_init__(self) -> None:
        counts = ("train_threads", "num_cpus", "keep_checkpoints", "max_sequences_per_worker", "decoders_per_gpu")
        for name in counts:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if self.cache_gigabytes is not None and not self.cache_gigabytes > 0:
            raise ConfigError(f"cache_gigabytes is {self.cache_gigabytes}; it must be above 0")
        if self.register is not None and not self.tracking:
            raise ConfigError(f"--register {self.register} needs MLflow: leave out --no-tracking")
        if self.log not in ("text", "json"):
            raise ConfigError(f"log is {self.log!r}; it must be text or json")
        check_address(self.address)
        check_names(self.run_name, self.experiment, self.tag)
        check_register(self.register)
        if self.if_better is not None and "@" not in (self.register or ""):
            raise ConfigError("if_better moves an alias; give --register NAME@ALIAS with it")
        if self.if_better is not None and lower_is_better(self.if_better) is None:
            known = ", ".join((*LOWER_IS_BETTER, *HIGHER_IS_BETTER))
            raise ConfigError(f"if_better is {self.if_better!r}; name a metric that begins with one of {known}")
        _ = self._asked_for
        check_numbers(self)

    @property
    def joins_cluster(self) -> bool:
        """True for a run that joins a Ray cluster, whose machines are known only then."""
        return not self.in_process and cluster_address(self.address) is not None

    @property
    def on_cpus(self) -> Resources:
        """The workers of stages that need no GPU."""
        return self._on_this_machine(Resources.of_workers(self.workers))

    @property
    def on_devices(self) -> Resources:
        """The workers of stages that use a GPU where there is one."""
        return self._on_this_machine(self._asked_for)

    @property
    def to_train(self) -> Resources:
        """The workers of a training: those of `on_devices`, on CPUs fewer of them with several threads each."""
        workers = self.on_devices
        if workers.is_auto_workers:  # a cluster's machines say how many have so many threads
            return replace(workers, cpus_per_worker=float(self.train_threads or 1))
        if workers.gpus_per_worker:
            return workers
        share = max(2, workers.num_workers // MOST_TRAINERS) if self._asked_for.is_auto_workers else 1
        threads = min(workers.num_workers, self.train_threads or share)
        return replace(
            workers,
            num_workers=workers.num_workers // threads,
            min_workers=max(1, workers.min_workers // threads),
            cpus_per_worker=float(threads),
        )

    @property
    def workers_note(self) -> str:
        """A sentence on what auto has chosen; empty where both numbers were given."""
        if not (self._asked_for.is_auto_workers or self._asked_for.is_auto_gpus):
            return ""
        if self.joins_cluster:
            return "workers: what the cluster holds when each stage begins (auto); a plan reckons with one of one core"
        there = this_machine(self.num_cpus)
        left_out = ", which torch was installed without CUDA for" if count_gpus() and not has_cuda() else ""
        source = f"(auto: {there.num_cpus} cores and {there.num_gpus or count_gpus()} GPUs of this machine{left_out})"
        if self.in_process:
            return f"workers: this process alone, with the threads of {self.on_cpus.num_workers} cores {source}"
        devices, to_train = self.on_devices.words, self.to_train.words
        return f"workers: {self.on_cpus.words}; where a GPU is of use {devices}; training {to_train} {source}"

    @property
    def _asked_for(self) -> Resources:
        """The workers of stages that use a GPU, as the options have them."""
        is_auto = self.gpus_per_worker == "auto"
        return Resources.of_workers(
            self.workers,
            gpus_per_worker=0.0 if self.gpus_per_worker == "auto" else self.gpus_per_worker,
            is_auto_gpus=is_auto,
            max_sequences_per_worker=self.max_sequences_per_worker,
            num_checkpoints_kept=self.keep_checkpoints,
            decoders_per_gpu=self.decoders_per_gpu,
        )

    def _on_this_machine(self, resources: Resources) -> Resources:
        """Returns the resources with what this machine has, unless the run joins a cluster."""
        if self.joins_cluster or not (resources.is_auto_workers or resources.is_auto_gpus):
            return resources
        there = this_machine(self.num_cpus)
        return resources.on_nodes([replace(there, num_gpus=min(1, there.num_gpus)) if self.in_process else there])

    @property
    def mlflow_of_models(self) -> str | None:
        """The MLflow that has models named models:/...: --tracking-uri, MLFLOW_TRACKING_URI, or the local store's."""
        if named := self.tracking_uri or os.environ.get(TRACKING_VARIABLE):
            return named
        return None if "://" in self.store else Store(absolute(self.store)).default_tracking_uri

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that every process of the run gets, on every node."""
        named = {
            "PERCEPTS_CACHE": None if self.cache is None else absolute(self.cache),
            "PERCEPTS_CACHE_GIGABYTES": self.cache_gigabytes,
            ATTEMPTS_VARIABLE: os.environ.get(ATTEMPTS_VARIABLE),
            TRACKING_VARIABLE: None if self.mlflow_of_models is None else remember(self.mlflow_of_models),
        }
        return {name: str(value) for name, value in named.items() if value is not None}


def check_address(address: str | None) -> None:
    """Raises ConfigError for what cannot be the address of a Ray cluster."""
    if address is None or address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and re.fullmatch(r"[\w.:\[\]-]+", host) and port.isdecimal() and 0 < int(port[:9]) < 1 << 16):
        raise ConfigError(f"address is {address!r}; give HOST:PORT of a Ray head, such as 10.0.0.5:6379")


def check_names(run_name: str | None, experiment: str | None, tags: Sequence[str]) -> None:
    """Raises ConfigError for names that MLflow, or the columns of its database, would refuse after the start."""
    for what, name in (("run_name", run_name), ("experiment", experiment)):
        if name is not None and (len(name) > MAX_NAME or not name.isprintable()):
            raise ConfigError(f"{what} is {name!r}; give at most {MAX_NAME} characters, all of them printable")
    for tag in tags:
        name, equals, _ = tag.partition("=")
        if not equals or not name.strip() or name != allowed_name(name):
            rule = "a name has letters, digits, spaces and any of _ - . : /"
            raise ConfigError(f"tag is {tag!r}; give NAME=VALUE, such as team=vision: {rule}")


def check_register(target: str | None) -> None:
    """Raises ConfigError for a name or an alias that MLflow would refuse at the end of the run."""
    if target is None:
        return
    name, at, alias = target.partition("@")
    if (
        not re.fullmatch(r"[^/:@'\"\\\x00-\x1f]{1,256}", name)
        or not name.strip()
        or name == "."
        or name.startswith("..")
    ):
        rule = "a model's name has 1 to 256 characters, none of them / : ' \" or \\, and is not . or begun with .."
        raise ConfigError(f"register is {target!r}; {rule}, such as walks@best")
    taken = alias.lower() == "latest" or re.fullmatch(r"v\d+", alias.lower()) is not None
    if at and (taken or not re.fullmatch(r"[\w-]{1,255}", alias, re.ASCII)):
        rule = "an alias has letters, digits, _ and -, and is not latest or v1, such as walks@best"
        raise ConfigError(f"register is {target!r}; {rule}")


RUN_GROUP: Final = ("store", "workers", "gpus-per-worker", "address", "tracking-uri", "register", "in-process", "plan")
"""The options of every recipe that are in its short help."""
NEEDS_PLAN: Final = {field.name.replace("_", "-"): "plan" for field in fields(CostOptions)}
"""The options that have an effect with --plan alone."""
NOT_WITH: Final = {"num-cpus": ("address", "in-process"), "address": ("in-process",)}
"""The options without effect beside another one: name -> names of others."""
HOW_TO_RUN: Final = frozenset(field.name for field in fields(RunOptions))
"""Names of the fields of every recipe: they are no settings of what is made."""
