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
from pipeline.recipes.model_variants import MODELS, Model, encoder_suffix
from stages.extract import extract
from stages.pretrain import pretrain
from stages.standardize import standardize

MLFLOW_MODEL = "models:/"


@dataclass(frozen=True, kw_only=True)
class PretrainedNodes:
    """The nodes that a recipe needs of pretrained models, existing or made."""

    encoders: dict[Model, list[Node]]
    """The models by their names on the command line, each from one or more seeds."""
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
        ConfigError: the store has no such model, one was not pretrained on percepts, one is named twice, kinds have
          different numbers of models, or they were pretrained on percepts standardised by different statistics.
    """
    store = Store(absolute(store_uri))
    of_kind: dict[Model, list[Manifest]] = {}
    for name in names:
        manifest = _manifest(store, name, tracking_uri or store.default_tracking_uri)
        same_kind = of_kind.setdefault(model_of(_model_config(manifest.config)), [])
        if manifest.key in {other.key for other in same_kind}:
            raise ConfigError(f"{manifest.key} is named twice; name each model once")
        same_kind.append(manifest)
    if len({len(same_kind) for same_kind in of_kind.values()}) > 1:
        numbers = ", ".join(f"{len(same_kind)} of {kind!r}" for kind, same_kind in of_kind.items())
        raise ConfigError(f"arms that are compared start from as many encoders each, and here are {numbers}")
    manifests = [manifest for same_kind in of_kind.values() for manifest in same_kind]
    inputs = {(m.inputs["percepts"], m.inputs["statistics"]) for m in manifests}
    if len(inputs) > 1:
        raise ConfigError(
            f"{', '.join(m.key for m in manifests)} were pretrained on different percepts or statistics; arms "
            "that are compared read the same: give models of one run"
        )
    configs = [_model_config(m.config) for m in manifests]
    sizes = {(int(config["num_units"]), int(config["num_layers"])) for config in configs}
    if len(sizes) > 1:
        raise ConfigError(
            f"models of {len(sizes)} sizes were given; arms that are compared have one: give models alike"
        )
    ((percepts, statistics),) = inputs
    if not (percepts and statistics):
        raise ConfigError(f"{manifests[0].key} was not pretrained on percepts; give a model of percepts")
    return PretrainedNodes(
        encoders={
            kind: [
                plan.add_existing(pretrain, manifest.key, name=f"{stream}pretrain {kind}{encoder_suffix(number)}")
                for number, manifest in enumerate(same_kind)
            ]
            for kind, same_kind in of_kind.items()
        },
        size=sizes.pop(),
        statistics=plan.add_existing(standardize, statistics, name=f"{stream}standardize of pretraining"),
        percepts=plan.add_existing(extract, percepts, name=f"{stream}extract of pretraining"),
    )


def _manifest(store: Store, name: str, tracking_uri: str) -> Manifest:
    key = name
    if name.startswith(MLFLOW_MODEL):
        from pipeline.engine.tracking.models import key_of_model  # MLflow takes seconds to import

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
