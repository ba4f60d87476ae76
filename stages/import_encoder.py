"""import_encoder: an encoder that was trained elsewhere, as an artifact of this store.

It is named by a path, an fsspec URL or MLflow's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError
from pipeline.core.files import join, sha256_file
from pipeline.core.model_uris import resolve
from pipeline.core.stage import Context, stage
from stages.models.artifacts import Encoder
from stages.models.config import MODEL_FILE


@dataclass(frozen=True, kw_only=True)
class ImportEncoderConfig:
    """The encoder that is imported."""

    encoder: str
    """A pretrain artifact or its model.safetensors (path or fsspec URL), or `models:/NAME@ALIAS`."""

    def __post_init__(self) -> None:
        if not self.encoder:
            raise ConfigError("encoder is empty; name a pretrain artifact, or models:/NAME@ALIAS")


def _file(uri: str) -> str:
    uri = resolve(uri)
    return uri if uri.endswith(".safetensors") else join(uri, MODEL_FILE)


def _digest(config: ImportEncoderConfig) -> str:
    """Returns the sha256 of the model's bytes, as an alias may point elsewhere tomorrow."""
    from stages.models.pretrained import Pretrained

    uri = _file(config.encoder)
    Pretrained.load(uri)
    return sha256_file(uri)


@stage(version=1, snapshot=_digest)
def import_encoder(config: ImportEncoderConfig, context: Context) -> Encoder:
    """Copies the model: equal bytes whichever name it had.

    Raises:
        SourceError, CorruptArtifact, UsageError: see `stages.models.pretrained.Pretrained.load`.
    """
    from stages.models.pretrained import Pretrained

    pretrained = Pretrained.load(_file(config.encoder))
    pretrained.save(join(context.uri, MODEL_FILE))
    context.record(encoder=config.encoder, num_units=pretrained.composite.config.num_units)
    return Encoder(context.uri, context.key)
