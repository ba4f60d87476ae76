"""Pretrained models that exist already, as nodes of a plan: by key, as models of MLflow, or as files.

Arms of classifiers start from them, or a pretraining goes on from one. A model that arms start from brings what it was
pretrained with: the statistics by which percepts are standardised for it, and the percepts themselves, which the check
for near duplicates looks at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.core.errors import ConfigError
from pipeline.core.files import absolute, sha256_file
from pipeline.core.stage import Stage
from pipeline.engine.plan import Node, Plan
from pipeline.engine.store import Manifest, Store
from pipeline.recipes.model_variants import MODELS, Model, encoder_suffix
from pipeline.recipes.video_inputs import VideoOptions
from stages.extract import ExtractConfig, extract
from stages.extraction.config import check_convnet, config_of, extractor_of
from stages.finetune import finetune
from stages.import_encoder import ImportEncoderConfig, import_encoder
from stages.models.config import MODEL_FILE
from stages.models.header import ModelKind, find_model
from stages.percepts.schema import Extractor
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.warm_start import check_warm_start
from stages.standardize import standardize
from stages.video.limits import Limits

MLFLOW_MODEL = "models:/"
WARM_START: Final = "warm start"
"""The node's name."""
ENCODERS: Final = (pretrain, import_encoder)
KEY: Final = re.compile(r"[a-z-]+-[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class ModelReadingOptions(VideoOptions):
    """The options of every recipe by which a model that is there reads videos."""

    weights: str | None = None
    """URI of the weights of the model's convnet, where they are not those of an installed package."""
    plugin: str | None = None
    """Python module that registers the model's convnet, where it is one of yours."""


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


def add_warm_start(
    plan: Plan, source: str, configs: Sequence[PretrainConfig], *, store_uri: str, percepts: Node
) -> Node:
    """Adds the encoder that pretrainings with these configs go on from.

    source: see `add_encoder`. percepts: the percepts that are learned from.

    Raises:
        ConfigError: the encoder does not fit a config or the percepts.
        ConfigError, SourceError, CorruptArtifact, StoreError, UsageError: as `add_encoder`.
    """
    node, header = add_encoder(plan, source, flag="warm-start", name=WARM_START, store_uri=store_uri)
    for config in configs:
        try:
            config = config.for_videos(0, header)  # what is decided of a model, a warm start keeps
            check_warm_start(header, config.model, config.training, config.transform, extractor=percepts.snapshot)
        except ConfigError as error:
            raise ConfigError(f"--warm-start {source}: {error}") from error
    return node


def add_encoder(plan: Plan, source: str, *, flag: str, name: str, store_uri: str) -> tuple[Node, dict[str, Any]]:
    """Adds an encoder by whatever it is called; returns its node, and the header of its file.

    Keys know it by its bytes, not by its name. One that the store has is taken from there.

    source: key of an encoder of the store, `models:/NAME@ALIAS`, or path or fsspec URL of a file or of its directory.
    flag: the option that names it, without dashes.

    Raises:
        ConfigError: the store has no such key.
        SourceError, CorruptArtifact, StoreError, UsageError: see `stages.models.header.find_model`.
    """
    known, header, digest = _known_model(source, ENCODERS, kind="encoder", flag=flag, store_uri=store_uri)
    if known is None:
        node = plan.add(import_encoder, ImportEncoderConfig(encoder=source), name=name)
    else:
        stage = next(stage for stage in ENCODERS if stage.name == known.stage)
        node = plan.add_existing(stage, known.key, name=name)
    return plan.replaced(node, content=digest), header


def add_classifier(plan: Plan, source: str, *, store_uri: str) -> tuple[Node | None, dict[str, Any]]:
    """Finds a finetuned classifier by whatever it is called; returns its node, and the header of its file.

    The node is None for a classifier that the store has not: a stage names it then.

    source: key of a classifier of the store (finetune-...), or as in `add_encoder`. Raises as that.
    """
    known, header, _ = _known_model(source, (finetune,), kind="classifier", flag="classifier", store_uri=store_uri)
    if known is None:
        return None, header
    return plan.add_existing(finetune, known.key, name="classifier"), header


def _known_model(
    source: str, stages: Sequence[Stage[Any, ..., Any]], *, kind: ModelKind, flag: str, store_uri: str
) -> tuple[Manifest | None, dict[str, Any], str]:
    """Returns a model's manifest, if the store has it, the header of its file, and the sha256 of that."""
    store = Store(absolute(store_uri))
    known, uri = None, source
    if KEY.fullmatch(source):
        known = _find(store, lambda manifest: manifest.key == source, stages)
        if known is None:
            raise ConfigError(f"--{flag} names {source}, which the store {store.root} does not have among its {kind}s")
        uri = store.directory(known.stage, known.key)
    uri, header = find_model(uri, kind, store_uri)
    digest = _digest(known) if known is not None else sha256_file(uri)
    return known or _find(store, lambda manifest: _digest(manifest) == digest, stages), header, digest


def percepts_of_model(
    learned: Extractor | None, source: str, *, flag: str, options: ModelReadingOptions
) -> ExtractConfig:
    """Returns the settings by which videos become what a model has learned to read.

    learned: the extractor of its percepts, if there is one.
    options: those of the recipe; where its limits are the defaults, the model's are taken.

    Raises:
        ConfigError: it learned from no percepts, or its convnet is none that can be built here.
        DigestError: the convnet here is another than the one that made what it learned from.
    """
    if learned is None:
        raise ConfigError(
            f"--{flag} {source} learned from pixels, not from percepts: give one of percepts, such as of youtube"
        )
    of_model = config_of(learned, weights=options.weights)
    config = ExtractConfig(
        convnet=replace(of_model.convnet, plugin=options.plugin),  # workers import it, too
        decode=of_model.decode,
        limits=of_model.limits if options.limits == Limits() else options.limits,
        compression=of_model.compression,
    )
    check_convnet(learned.settings["convnet"], extractor_of(config).settings["convnet"])
    return config


def extractor_of_encoder(header: Mapping[str, Any]) -> Extractor | None:
    """Returns the extractor of what an encoder learned from, by the header of its file; None where that was pixels."""
    made_by = header.get("extractor")
    if made_by is None:
        return None
    return Extractor(made_by["settings"], header["config"]["dim"])


def _digest(manifest: Manifest) -> str:
    model = manifest.outputs.get(MODEL_FILE)
    return "" if model is None else model.sha256


def _find(store: Store, fits: Callable[[Manifest], bool], stages: Sequence[Stage[Any, ..., Any]]) -> Manifest | None:
    """Returns a model of the store; of several, one that was trained there, which knows what it learned from."""
    return next((manifest for stage in stages for manifest in store.manifests(stage.name) if fits(manifest)), None)
