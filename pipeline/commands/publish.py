"""Publishes a trained model: its weights, and a card that says what it is, what it learned from and how well it does.

    percepts publish pretrain-<key> DIRECTORY --licence cc-by-4.0
    percepts publish finetune-<key> s3://bucket/model

Writes `model.safetensors`, which `load_encoder` and MLflow read, and `README.md` in the form of a hub's model card.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from pipeline.core.errors import ConfigError
from pipeline.core.files import join, list_files, read_bytes, sha256_bytes, write_bytes
from pipeline.engine.store import DEFAULT_STORE, Store
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Word

LICENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
CARD_FILE: Final = "README.md"


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """Write a model of a store, and a card that describes it, to a directory that others can load."""

    key: Annotated[str, Word("KEY")]
    """The key of a pretrained encoder (pretrain-...) or of finetuned classifiers (finetune-...)."""
    directory: Annotated[str, Word("DIRECTORY")]
    """Directory or fsspec URL to write to; it must be empty, or hold an earlier version of this model."""
    name: str = ""
    """Title of the card; the default is the stage's name and its key."""
    licence: str = "other"
    """Identifier of the licence of the weights, such as cc-by-4.0 or mit, as hubs and SPDX spell it."""
    store: str = DEFAULT_STORE
    """Directory or fsspec URL of the store."""

    def __post_init__(self) -> None:
        if not LICENCE.fullmatch(self.licence):
            raise ConfigError(f"--licence is {self.licence!r}; give an identifier such as cc-by-4.0")
        if not self.directory.strip():
            raise ConfigError("DIRECTORY is empty; give a directory or URL to write to")


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts publish`. Returns the exit status.

    Raises:
        UsageError: there is no store, it has no such model, or the directory holds something else.
        CorruptArtifact: a file of the model is damaged.
    """
    options = parse_options(PublishOptions, arguments, prog="percepts publish")
    from pipeline.reporting.model_card import describe, model_card
    from stages.models.config import MODEL_FILE

    store = Store.open(options.store)
    model = describe(store, options.key)
    weights = read_bytes(join(store.directory(model.manifest.stage, options.key), MODEL_FILE))
    if sha256_bytes(weights) != model.manifest.outputs[MODEL_FILE].sha256:
        raise store.damaged(model.manifest, MODEL_FILE)
    others = sorted(set(list_files(options.directory)) - {MODEL_FILE, CARD_FILE})
    if others:
        raise ConfigError(f"{options.directory} holds {others[0]}; give a directory that is empty, or a model's")
    card = model_card(model, title=options.name, licence=options.licence)
    # The card comes last: where it is, the model is whole.
    write_bytes(join(options.directory, MODEL_FILE), weights)
    write_bytes(join(options.directory, CARD_FILE), card.encode())
    sys.stdout.write(f"{join(options.directory, MODEL_FILE)}\n{join(options.directory, CARD_FILE)}\n")
    return 0
