"""Names, parameters and tags as MLflow takes them. Nothing here imports MLflow."""

from __future__ import annotations

import getpass
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pipeline.core.printable import printable
from pipeline.engine.store import Manifest

if TYPE_CHECKING:  # the values of a run need no NumPy
    from stages.evaluation.score_table import ScoreTable

KEY_TAG: Final = "percepts.key"
"""Tag of a model version: the key of its artifact."""
PARAM_CHARACTERS: Final = 500
TAG_CHARACTERS: Final = 5000
NAME_CHARACTERS: Final = 250
NOT_ALLOWED: Final = re.compile(r"[^\w./: -]")
"""Characters that are not allowed in the name of a metric."""
LOWER_IS_BETTER: Final = (
    "forecast_error",
    "forecast_error_over_copying",
    "reconstruction_error",
    "nats",
    "squared_error",
    "mse",
)
HIGHER_IS_BETTER: Final = ("accuracy", "difference", "ssim")
"""Quantities that a test measures, by which models can be compared: the beginnings of metrics' names."""
NOT_IN_MODEL_NAMES: Final = re.compile(r"[/:.%\"']")
"""Characters that are not allowed in the name of a model."""


@dataclass(frozen=True, kw_only=True)
class RunDescription:
    """The name, settings and tags of a parent run, known before it starts."""

    command: str
    name: str | None = None
    """Name of the run; default: the recipe's."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Settings that decide what is made."""
    tags: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A parent run of a recipe with its settings and results."""

    run_id: str
    name: str
    started_at: str
    """UTC, ISO 8601."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    recipe: str = ""
    tests: str = ""
    """The digests of its tests; runs of equal ones were measured by the same data and settings."""
    scores: tuple[ScoreTable, ...] = ()
    """The accuracies of each sampling, where the run has any."""


@dataclass(frozen=True, kw_only=True)
class HolderResults:
    """Results of the model that holds an alias, by the tests of the run that may take it over."""

    key: str
    """The key of its artifact."""
    metrics: Mapping[str, float]
    tests: Mapping[str, str]
    """Quantity -> digest of its test, as in the tag of a parent run."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A model to register under a name, and the run that has its results."""

    manifest: Manifest
    target: str
    """NAME, or NAME@ALIAS: the alias then points at this version."""
    run_id: str | None = None
    """The parent run, if it has its results."""
    description: str = ""
    """Sentences on what the model was trained on and how well it does."""
    if_better: str | None = None
    """The metric by which the alias moves: only if the version that holds it is beaten on the same test."""
    holder: HolderResults | None = None
    """The results of that version, if it was measured for this."""


def allowed_name(name: str) -> str:
    """Removes what MLflow refuses in the name of a metric, a parameter or a tag, such as commas and double slashes."""
    plain = posixpath.normpath(NOT_ALLOWED.sub("", name)).lstrip("/.")
    return plain[:NAME_CHARACTERS] or "unnamed"


def lower_is_better(metric: str) -> bool | None:
    """Returns whether a lower value of a metric is better; None for one by which models cannot be compared."""
    quantity = metric.split("/")[0]
    return quantity in LOWER_IS_BETTER if quantity in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER) else None


def model_name(kind: str, stage: str, node: str) -> str:
    """Returns a model's name by its kind and its arm: node `finetune pretrained` makes `classifiers pretrained`."""
    name = node.replace(stage, kind, 1) if stage in node else f"{kind} {node}"
    return NOT_IN_MODEL_NAMES.sub("-", name)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns nested settings as name -> text; a setting that is None is left out."""
    texts: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            texts |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            texts[allowed_name(f"{prefix}{name}")] = _text(value)
    return texts


def source_tags(program: str, commit: str | None, dirty: bool | None) -> dict[str, str]:
    """Returns the tags with which MLflow's own autologging names user, source and commit."""
    tags = {"mlflow.user": _user(), "mlflow.source.name": program, "mlflow.source.type": "LOCAL"}
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit
    if dirty is not None:
        tags["mlflow.source.git.dirty"] = str(dirty).lower()
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(entry) for entry in value if entry is not None)
    if isinstance(value, Mapping):
        return printable(", ".join(f"{name}={part}" for name, part in value.items() if part is not None))
    return printable(str(value))
