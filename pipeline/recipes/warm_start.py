"""The model that a pretraining goes on from, as a node: a key of the store, a model of MLflow, or a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from pipeline.core.addresses.model_uris import resolve
from pipeline.core.errors import ConfigError
from pipeline.core.files import absolute, join, sha256_file
from pipeline.engine.plan import Node, Plan
from pipeline.engine.store import Manifest, Store
from stages.import_encoder import ImportEncoderConfig, import_encoder
from stages.models.config import MODEL_FILE
from stages.models.header import read_header
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.warm_start import check_warm_start

WARM_START: Final = "warm start"
"""The node's name."""
ENCODERS: Final = (pretrain, import_encoder)
KEY: Final = re.compile(r"(pretrain|import-encoder)-[0-9a-f]{16}")


def add_warm_start(
    plan: Plan, source: str, configs: Sequence[PretrainConfig], *, store_uri: str, percepts: Node
) -> Node:
    """Adds the encoder that pretrainings with these configs go on from. Keys know it by its bytes, not by its name.

    source: key of an encoder of the store, `models:/NAME@ALIAS`, or path or fsspec URL of a file or of its directory.
    percepts: the percepts that are learned from.

    Raises:
        ConfigError: the store has no such key, or the encoder does not fit a config or the percepts.
        SourceError, CorruptArtifact, StoreError: see `stages.models.header.read_header`.
        UsageError: MLflow has no such model.
    """
    store = Store(absolute(store_uri))
    known, uri = None, source
    if KEY.fullmatch(source):
        known = _find(store, lambda manifest: manifest.key == source)
        if known is None:
            raise ConfigError(f"--warm-start names {source}, which the store {store.root} does not have")
        uri = store.directory(known.stage, known.key)
    else:
        uri = resolve(source, store_uri)
    uri = uri if uri.endswith(".safetensors") else join(uri, MODEL_FILE)
    header = read_header(uri)
    for config in configs:
        try:
            config = config.for_videos(0, header)  # what is decided of a model, a warm start keeps
            check_warm_start(header, config.model, config.training, config.transform, extractor=percepts.snapshot)
        except ConfigError as error:
            raise ConfigError(f"--warm-start {source}: {error}") from error
    digest = _digest(known) if known is not None else sha256_file(uri)
    known = known or _find(store, lambda manifest: _digest(manifest) == digest)
    if known is None:
        node = plan.add(import_encoder, ImportEncoderConfig(encoder=source), name=WARM_START)
    else:
        stage = next(stage for stage in ENCODERS if stage.name == known.stage)
        node = plan.add_existing(stage, known.key, name=WARM_START)
    return plan.known_by(node, digest)


def _digest(manifest: Manifest) -> str:
    model = manifest.outputs.get(MODEL_FILE)
    return "" if model is None else model.sha256


def _find(store: Store, fits: Callable[[Manifest], bool]) -> Manifest | None:
    """Returns an encoder of the store; of several, one that was trained there, which knows what it learned from."""
    return next((manifest for stage in ENCODERS for manifest in store.manifests(stage.name) if fits(manifest)), None)
