"""import_encoder: an encoder that was trained elsewhere, as an artifact of this store.

It is named by a path, an fsspec URL or MLflow's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import ConfigError
from pipeline.core.files import join, sha256_file
from pipeline.core.stage import Context, stage
from stages.extraction.config import ExtractionConfig
from stages.models.artifacts import Encoder
from stages.models.config import MODEL_FILE
from stages.models.header import find_model


@dataclass(frozen=True, kw_only=True)
class ImportEncoderConfig:
    """The encoder that is imported."""

    encoder: str
    """A pretrain artifact or its model.safetensors (path or fsspec URL), or `models:/NAME@ALIAS`."""

    def __post_init__(self) -> None:
        if not self.encoder:
            raise ConfigError("encoder is empty; name a pretrain artifact, or models:/NAME@ALIAS")


def _digest(config: ImportEncoderConfig) -> str:
    """Returns the sha256 of the model's bytes, as an alias may point elsewhere tomorrow."""
    from stages.models.pretrained import Pretrained

    uri, _ = find_model(config.encoder, "encoder")
    Pretrained.load(uri)
    return sha256_file(uri)


def size_of_encoder(config: ImportEncoderConfig, extraction: ExtractionConfig) -> tuple[int, int]:
    """Returns the units and layers of the encoder, which a classifier that starts from it has, too.

    Raises:
        ConfigError: the encoder learned from pixels, or from percepts of another network, layer or size.
        SourceError, CorruptArtifact, UsageError: see `find_model` and `stages.models.pretrained.Pretrained.load`.
    """
    uri, _ = find_model(config.encoder, "encoder")
    from stages.convnets.convnet import percept_dim  # torch, which these import, takes seconds
    from stages.models.pretrained import Pretrained

    pretrained = Pretrained.load(uri)
    if pretrained.transform is None or pretrained.extractor is None:
        raise ConfigError(f"--encoder {config.encoder} learned from pixels, and clips come as percepts; give another")
    dim, model = percept_dim(extraction.convnet), pretrained.composite.config
    of_encoder = pretrained.extractor.settings.get("convnet", {})
    names = (of_encoder.get("name"), of_encoder.get("layer"))
    if model.dim != dim or (all(names) and names != (extraction.convnet.name, extraction.convnet.layer)):
        raise ConfigError(
            f"--encoder {config.encoder} reads percepts of {model.dim} values of {' '.join(filter(None, names))}, and "
            f"--extract gives {dim} of {extraction.convnet.name} {extraction.convnet.layer}: give --extract the same"
        )
    return model.num_units, model.num_layers


@stage(version=1, snapshot=_digest)
def import_encoder(config: ImportEncoderConfig, context: Context) -> Encoder:
    """Copies the model: equal bytes whichever name it had.

    Raises:
        SourceError, CorruptArtifact, UsageError: see `find_model` and `stages.models.pretrained.Pretrained.load`.
    """
    from stages.models.pretrained import Pretrained

    pretrained = Pretrained.load(find_model(config.encoder, "encoder")[0])
    pretrained.save(join(context.uri, MODEL_FILE))
    context.record(encoder=config.encoder, num_units=pretrained.composite.config.num_units)
    return Encoder(context.uri, context.key)
