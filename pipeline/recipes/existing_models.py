"""Pretrained models that a store has already, as nodes of a plan: by key, or as MLflow models.

A given model brings what it was pretrained with: the statistics by which percepts are standardised for it, and the
percepts themselves, which the check for near duplicates looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.core.files import absolute
from pipeline.engine.plan import Node, Plan
from pipeline.engine.store import Manifest, Store
from pipeline.recipes.model_variants import MODELS, Model
from stages.extract import extract
from stages.pretrain import pretrain
from stages.standardize import standardize

MLFLOW_MODEL = "models:/"


@dataclass(frozen=True, kw_only=True)
class PretrainedNodes:
    """The nodes that a recipe needs of pretrained models, existing or made."""

    encoders: dict[str, Node]
    """The models by their names on the command line."""
    size: tuple[int, int]
    """(units, layers) of every model."""
    statistics: Node
    percepts: Node


def add_existing_models(
    plan: Plan, names: Sequence[str], *, store_uri: str, tracking_uri: str | None, stream: str = ""
) -> PretrainedNodes:
    """Adds nodes for pretrained models that the store has.

    names: keys (pretrain-...), or MLflow models (models:/m-..., models:/NAME@ALIAS).
    stream: put before the nodes' names.

    Raises:
        ConfigError: the store has no such model, one was not pretrained on percepts, two are of one kind, or they were
          pretrained on percepts standardised by different statistics.
    """
    store = Store(absolute(store_uri))
    manifests: dict[str, Manifest] = {}
    for name in names:
        manifest = _manifest(store, name, tracking_uri or store.default_tracking_uri)
        model = model_of(_model_config(manifest.config))
        if model in manifests:
            raise ConfigError(f"{manifests[model].key} and {manifest.key} are both of kind {model!r}; give one of each")
        manifests[model] = manifest
    inputs = {(m.inputs["percepts"], m.inputs["statistics"]) for m in manifests.values()}
    if len(inputs) > 1:
        raise ConfigError(
            f"{', '.join(m.key for m in manifests.values())} were pretrained on different percepts or statistics; arms "
            "that are compared read the same: give models of one run"
        )
    configs = [_model_config(m.config) for m in manifests.values()]
    sizes = {(int(config["num_units"]), int(config["num_layers"])) for config in configs}
    if len(sizes) > 1:
        raise ConfigError(
            f"models of {len(sizes)} sizes were given; arms that are compared have one: give models alike"
        )
    ((percepts, statistics),) = inputs
    if not (percepts and statistics):
        raise ConfigError(
            f"{next(iter(manifests.values())).key} was not pretrained on percepts; give a model of percepts"
        )
    return PretrainedNodes(
        encoders={
            model: plan.add_existing(pretrain, manifest.key, name=f"{stream}pretrain {model}")
            for model, manifest in manifests.items()
        },
        size=sizes.pop(),
        statistics=plan.add_existing(standardize, statistics, name=f"{stream}standardize of pretraining"),
        percepts=plan.add_existing(extract, percepts, name=f"{stream}extract of pretraining"),
    )


def _manifest(store: Store, name: str, tracking_uri: str) -> Manifest:
    key = name
    if name.startswith(MLFLOW_MODEL):
        from pipeline.engine.tracking_models import key_of_model  # MLflow takes seconds to import

        key = key_of_model(tracking_uri, name)
    manifest = store.find("pretrain", key)
    if manifest is None:
        keys = ", ".join(known.key for known in store.manifests("pretrain")) or "none"
        raise ConfigError(f"pretrained names {name!r}, which the store {store.root} does not have; it has: {keys}")
    return manifest


def _model_config(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the model's part of a pretraining config; manifests of percepts 0.1 have its fields beside the others."""
    nested: dict[str, Any] = config.get("model", config)
    return nested


def model_of(config: dict[str, Any]) -> Model:
    """Returns the one of the six models that a pretraining config describes."""
    said = {"reconstruct_conditional": False, "predict_conditional": False}
    for model, changes in MODELS.items():
        if all(config.get(name) == value for name, value in {**said, **changes}.items()):
            return model
    raise ConfigError(f"decoders {config.get('decoders')!r} with these conditions is none of {', '.join(MODELS)}")
