"""The definition of a stage: a typed function from a config and finished artifacts to a new artifact.

    @stage(version=1)
    def extract(config: ExtractConfig, context: Context, *, index: Index) -> Percepts: ...

The keyword-only parameters are the edges of the graph; their annotations say what may be connected there: `Index`,
`Index | None = None` for an edge that may stay open, `tuple[Scores, ...]` for any number. The return annotation is
the artifact that the stage makes. Called directly, a stage is its function and needs no framework.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from os import PathLike
from typing import Any, ClassVar, Concatenate, Final, Generic, Literal, ParamSpec, Self, TypeVar, Union

from pipeline.core.errors import ConfigError, PlanError
from pipeline.core.events import Emit, EventSource, discard
from pipeline.core.files import join
from pipeline.core.network import NetworkOptions
from pipeline.core.numbers import check_numbers
from pipeline.core.rates import GROUP_START_S
from pipeline.core.result_metrics import ResultMetrics
from pipeline.core.secrets import public
from pipeline.core.workers import ClusterNode, Workers, num_held


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of a stage. They are never part of a key: the artifact does not depend on them."""

    num_workers: int = 2
    """The largest number of worker processes of the stage's map or training group."""
    min_workers: int = 1
    """The number of workers without which a training group does not begin or continue."""
    cpus_per_worker: float = 1.0
    """CPU cores that Ray reserves for each worker."""
    gpus_per_worker: float = 0.0
    """GPUs that Ray reserves for each worker; 0 runs on the CPU."""
    max_sequences_per_worker: int | None = None
    """The largest micro-batch of a training worker, in sequences; default: its whole share of a batch."""
    num_checkpoints_kept: int = 2
    """The number of newest checkpoints that a running training keeps."""
    decoders_per_gpu: int | None = None
    """Cores that decode video for each GPU (for each worker if there is no GPU), on any node with free cores; default:
    all cores beside it. `stages.extraction.worker_allocation` has the rules."""
    network: NetworkOptions = NetworkOptions()
    """Manners of a stage that downloads."""
    is_auto_workers: bool = False
    """`num_workers` stands for as many as the machines hold; see `on_nodes`."""
    is_auto_gpus: bool = False
    """`gpus_per_worker` stands for one GPU where the machines have some, and for none elsewhere."""

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ConfigError(f"num_workers is {self.num_workers}; a stage needs at least 1 worker")
        if not 1 <= self.min_workers <= self.num_workers:
            raise ConfigError(
                f"min_workers is {self.min_workers}; it must lie between 1 and num_workers {self.num_workers}"
            )
        if self.cpus_per_worker < 0 or self.gpus_per_worker < 0:
            raise ConfigError("cpus_per_worker and gpus_per_worker count what Ray reserves; they cannot be negative")
        for name in ("num_checkpoints_kept", "max_sequences_per_worker", "decoders_per_gpu"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        check_numbers(self)

    @property
    def num_devices(self) -> float:
        """GPUs of all workers, or their CPU cores where they have no GPU."""
        return self.num_workers * (self.gpus_per_worker or self.cpus_per_worker or 1.0)

    @property
    def words(self) -> str:
        """The workers and what each has, such as `2 x 1 GPU`."""
        amount, device = (self.gpus_per_worker, "GPU") if self.gpus_per_worker else (self.cpus_per_worker, "core")
        return f"{self.num_workers} x {amount:g} {device}{'s'[: amount > 1]}"

    def on_nodes(self, nodes: Sequence[ClusterNode]) -> Resources:
        """Returns the resources with what these machines hold in the place of what was left to them."""
        gpus, most = self.gpus_per_worker, self.num_workers
        if self.is_auto_gpus:
            gpus = float(num_held(nodes, self.cpus_per_worker, 1.0) >= self.min_workers)
        fitting = max(self.min_workers, num_held(nodes, self.cpus_per_worker, gpus))
        if self.is_auto_workers or (self.is_auto_gpus and gpus):
            most = fitting if self.is_auto_workers else min(most, fitting)
        return replace(self, num_workers=most, gpus_per_worker=gpus, is_auto_workers=False, is_auto_gpus=False)

    @classmethod
    def of_workers(cls, workers: str, **others: Any) -> Resources:
        """Parses "8", at most 8 workers, "4:8", at least 4, or "auto", as many as there is room for, also "4:auto".

        Raises:
            ConfigError: it is none of these; `others`, further fields, break a rule.
        """
        match = re.fullmatch(r"(?:(\d{1,9}):)?(\d{1,9}|auto)", workers, re.ASCII)
        if match is None:
            raise ConfigError(f"workers is {workers!r}; give auto, a number such as 8, or the fewest and most, as 4:8")
        fewest, is_auto = int(match[1] or 1), match[2] == "auto"
        most = fewest if is_auto else int(match[2])
        return cls(num_workers=most, min_workers=fewest, is_auto_workers=is_auto, **others)


@dataclass(frozen=True)
class Model:
    """The form of an artifact as an MLflow model, without pickle: `loader._load_pyfunc(directory)` builds it."""

    loader: str
    """Module that MLflow imports by name (`loader_module`). It has `_load_pyfunc(path)`, and `example(artifact_uri)`:
    an input and the output that belongs to it (NumPy arrays), from which MLflow infers the signature."""
    files: tuple[str, ...]
    """Names in the artifact's directory that the loader reads."""


Holding = Literal["names", "files", "percepts", "pixels", "learned"]
"""Content of an artifact that stems from a video: its name in a list, its file, its percepts, its pixels, or what was
learned or measured from it, which cannot be taken out."""


@dataclass(frozen=True)
class Artifact:
    """A finished directory of a store. Subclasses add typed readers and no fields."""

    uri: str
    key: str = ""
    model: ClassVar[Model | None] = None
    holds: ClassVar[Holding] = "learned"
    """The artifact's content from a video, on which a takedown acts. Artifacts of "names", "files" and "percepts" list
    their videos, and leave out one that has been taken down."""
    columns: ClassVar[Mapping[str, str]] = types.MappingProxyType({})
    """Columns of the artifact's table, where it is data in a table: name -> `string`, `long`, `double` or `boolean`."""

    @property
    def store_uri(self) -> str:
        """The root of the store in which the artifact lies, as STAGE/KEY."""
        return self.uri.rstrip("/").rsplit("/", 2)[0]

    def path(self, name: str) -> str:
        """Returns the URI of a file of this artifact."""
        return join(self.uri, name)

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Reads the results that runs are compared by; none where the artifact holds no results.

        facts: what the stage recorded while it made the artifact, from its manifest.
        """
        return ResultMetrics()

    def num_to_look_at(self, facts: Mapping[str, int | float | str], *, all_rejected: bool = False) -> int:
        """Returns how many videos the next run looks at again: those that a cause outside their bytes has rejected.

        all_rejected: counts all that are rejected.
        """
        return 0

    def has_same_videos(self, other: Self) -> bool:
        """Returns whether a renewed look has changed nothing that a stage after it would see."""
        return False


@dataclass(frozen=True)
class Context(EventSource):
    """The run that a stage is part of, which reports what the stage does. It pickles: parts of it travel to workers."""

    uri: str
    """The directory into which the stage writes; the manifest is added when the stage has returned."""
    store_uri: str
    """The root of the store, for files that stages share (`<store>/percepts/`)."""
    key: str = ""
    source: str = ""
    """The stage's name in its recipe, for displays."""
    resources: Resources = Resources()
    workers: Workers = field(default_factory=Workers)
    emit: Emit = discard
    facts: dict[str, int | float | str] = field(default_factory=dict)
    listing_uri: str | None = None
    """The listing that the stage's key was made of (`Listing.write`): the stage reads it and lists nothing itself. None
    where the stage is called without a plan."""
    looked_at_uri: str | None = None
    """The directory of an earlier artifact of the same inputs, of which only what could not be read is looked at again;
    None where there is none."""
    looks_at_rejected: bool = False
    """Look again at every rejected video, also where its bytes were the reason."""

    @classmethod
    def for_test(cls, directory: str | PathLike[str], **changes: Any) -> Context:
        """Returns a context that runs everything in this process and writes into `directory`/out."""
        root = str(directory)
        return cls(**{"uri": join(root, "out"), "store_uri": root, "key": "test", "source": "test", **changes})

    def record(self, **facts: int | float | str) -> None:
        """Keeps facts for the manifest, MLflow and the report: counts, bytes, scores."""
        self.facts.update(facts)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work that the devices of a stage share, so that twice as many take half as long."""

    amount: float
    """The amount, in any unit."""
    per_core_s: float
    """The amount that one CPU core does in a second."""
    per_gpu_s: float
    """The amount that one GPU does in a second."""

    def seconds(self, resources: Resources) -> float:
        """Returns the duration on the GPUs of the workers, or on their cores where they have none."""
        return self.amount / (self.per_gpu_s if resources.gpus_per_worker else self.per_core_s) / resources.num_devices


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The expected size and duration of a stage; a field is None while nothing is known."""

    num_videos: int | None = None
    num_frames: int | None = None
    num_bytes: int | None = None
    seconds: float | None = None
    """The duration; with `work`, of what comes beside it on one worker."""
    work: Work | None = None
    is_measured: bool = False
    """True where the seconds are those of an earlier artifact of the store, scaled."""
    is_waiting: bool = False
    """True where the seconds pass in waiting for others' servers, and no GPU is reserved meanwhile."""
    note: str = ""
    """A remark that a plan makes on the stage, beside sizes and times."""

    def duration_s(self, resources: Resources) -> float | None:
        """Returns the duration on these workers, in seconds; None while it is not known."""
        if self.work is None:
            return self.seconds
        group_start_s = GROUP_START_S if resources.num_workers > 1 else 0.0
        return (self.seconds or 0.0) + group_start_s + self.work.seconds(resources)


class Listing(ABC):
    """A listing of what lies outside the store and is read by a stage: it enters the key, and is handed to the stage.

    It is taken once, when the plan is built. What arrives later is not in the key, and is not read under it.
    """

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hex digest of the listing, part of the key."""

    @property
    @abstractmethod
    def estimate(self) -> Estimate:
        """Estimate of what was listed, which the stage's own estimate gets as the input `listing`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what was left out of the listing, for the plan; none unless a listing has some."""
        return ()

    @abstractmethod
    def write(self, uri: str) -> None:
        """Writes the listing to a file, for the stage."""


@dataclass(frozen=True)
class Edge:
    """An input of a stage."""

    artifact: type[Artifact]
    optional: bool = False
    many: bool = False

    def __str__(self) -> str:
        name = self.artifact.__name__
        return f"tuple[{name}, ...]" if self.many else f"{name} | None" if self.optional else name


C = TypeVar("C")
A = TypeVar("A", bound=Artifact)
P = ParamSpec("P")
Estimator = Callable[[Any, Mapping[str, Estimate]], Estimate]
Snapshot = Callable[[Any], "str | Listing | None"]


@dataclass(frozen=True, eq=False)
class Stage(Generic[C, P, A]):
    """A function with its edges, its version and the class of its artifact. It pickles by name."""

    function: Callable[Concatenate[C, Context, P], A]
    version: int
    config_type: type[Any]
    edges: Mapping[str, Edge]
    produces: type[Artifact]
    snapshot: Snapshot | None
    """(config) -> digest or listing of what lies outside the store and is read by the stage; part of the key."""
    estimate: Estimator | None
    """(config, estimates of the inputs) -> estimate, for `--plan`."""
    late_edges: frozenset[str] = frozenset()
    """Optional edges that older versions did not have: an open one is left out of the key."""

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, config: C, context: Context, *args: P.args, **inputs: P.kwargs) -> A:
        return self.function(config, context, *args, **inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _stage_named, (self.function.__module__, self.name)


def _stage_named(module: str, name: str) -> Stage[Any, ..., Artifact]:
    member = getattr(importlib.import_module(module), name)
    assert isinstance(member, Stage)
    return member


def stage(
    *,
    version: int,
    snapshot: Snapshot | None = None,
    estimate: Estimator | None = None,
    late_edges: frozenset[str] = frozenset(),
) -> Callable[[Callable[Concatenate[C, Context, P], A]], Stage[C, P, A]]:
    """Turns a function into a stage. Raise `version` when the same config and inputs give other bytes than before.

    late_edges: see `Stage`.

    Raises:
        PlanError: the function's annotations do not describe a stage.
    """

    def decorate(function: Callable[Concatenate[C, Context, P], A]) -> Stage[C, P, A]:
        hints = typing.get_type_hints(function)
        name = f"{function.__module__}.{function.__name__}"
        parameters = list(inspect.signature(function).parameters.values())
        if (
            len(parameters) < 2
            or not is_dataclass(hints.get(parameters[0].name))
            or hints.get("context") is not Context
        ):
            raise PlanError(f"{name} must take (config: <a dataclass>, context: Context, *, <inputs>)")
        produces = hints.get("return")
        if not (isinstance(produces, type) and issubclass(produces, Artifact)):
            raise PlanError(f"{name} must return an Artifact; its return annotation is {produces}")
        edges = {p.name: _edge(name, p, hints[p.name]) for p in parameters[2:]}
        return Stage(function, version, hints[parameters[0].name], edges, produces, snapshot, estimate, late_edges)

    return decorate


def _edge(stage_name: str, parameter: inspect.Parameter, hint: Any) -> Edge:
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        raise PlanError(f"{stage_name}: input {parameter.name!r} must be keyword-only; put it after `*`")
    optional = many = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        optional = len(members) == 1
        hint = members[0] if optional else hint
    elif typing.get_origin(hint) is tuple and typing.get_args(hint)[1:] == (Ellipsis,):
        many, hint = True, typing.get_args(hint)[0]
    if not (isinstance(hint, type) and issubclass(hint, Artifact)):
        raise PlanError(f"{stage_name}: input {parameter.name!r} must be an Artifact, `X | None` or `tuple[X, ...]`")
    return Edge(hint, optional, many)


CAME_LATER: Final = types.MappingProxyType({"came later": True})
"""Metadata of a config's field that older versions did not have. At its default it is left out of the key, so that
what was made without the choice is found again."""


def config_dict(config: Any) -> dict[str, Any]:
    """Returns a config as plain JSON values, which enter the key and are MLflow's parameters; addresses are public."""
    values = ((field, getattr(config, field.name)) for field in fields(config))
    return {
        field.name: _plain(value)
        for field, value in values
        if not (field.metadata == CAME_LATER and value == field.default)
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return config_dict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    assert value is None or isinstance(value, bool | int | float | str), f"{value!r} cannot be part of a key"
    return public(value) if isinstance(value, str) else value
