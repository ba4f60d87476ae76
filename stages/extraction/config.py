"""Everything that decides the percepts of a video, and the fingerprint that stands for it."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pipeline.core.errors import ConfigError
from pipeline.core.stage import config_dict
from stages.convnets.config import ConvnetConfig
from stages.percepts.schema import FORMAT, Extractor
from stages.percepts.writer import Compression
from stages.video.decode import DecodeConfig
from stages.video.limits import Limits

VERSION: Final = 1
"""The version of decoding and of `shard_extractor`: raise it when the same settings would give other rows."""


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """Everything that decides the rows of a video."""

    convnet: ConvnetConfig = field(default_factory=ConvnetConfig)
    """The network, the layer and the grid."""
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    """Frames as the network sees them; crop_px must be the network's input_px."""
    limits: Limits = field(default_factory=Limits)
    """The bounds beyond which a video is rejected, those of ingest. A recipe's --limits sets both."""
    compression: Compression = "none"
    """Compression of the percept column: none can be mapped and is read fastest, zstd takes less space."""

    def __post_init__(self) -> None:
        if self.decode.crop_px != self.convnet.input_px:
            raise ConfigError(
                f"the decoder crops to {self.decode.crop_px} px and the convnet takes {self.convnet.input_px} px; "
                "set decode.crop_px = convnet.input_px"
            )
        if self.decode.num_channels != self.convnet.in_channels:
            raise ConfigError(
                f"the decoder delivers {self.decode.num_channels} channels (flow {self.decode.flow}, stacks of "
                f"{self.decode.flow_stack}) and the convnet takes {self.convnet.in_channels}; set convnet.in_channels "
                "to twice decode.flow_stack for flow, to 3 for RGB"
            )


def _deciding(limits: Limits) -> dict[str, Any]:
    """Returns the limits that decide rows.

    A choice that was not made is left out: percepts that were paid for before there was one keep their fingerprint. So
    is the limit on what is fetched, which decides only if there are any.
    """
    settings = asdict(limits)
    del settings["max_bytes"]
    if limits.video_stream is None:
        del settings["video_stream"]
    return settings


def extractor_of(config: ExtractionConfig) -> Extractor:
    """Returns the extractor, whose settings go into a shard's metadata and its fingerprint. Reads the weights once.

    Raises:
        ConfigError, DigestError, SourceError: see `stages.convnets.convnet.identity`.
        ConfigError: flow by an algorithm that this OpenCV does not have.
    """
    # Here, and not above: torch and OpenCV take seconds to import, and recipes import this file for its options.
    from stages.convnets import convnet as convnets

    settings: dict[str, Any] = {
        "convnet": convnets.identity(config.convnet),
        "decode": config_dict(config.decode),
        "limits": _deciding(config.limits),
        "compression": config.compression,
        "format": FORMAT,
        "version": VERSION,
    }
    if config.decode.flow != "none":
        from stages.video import flow

        flow.check_algorithm(config.decode.flow)
        settings["opencv"] = flow.version()
    return Extractor(settings=settings, dim=convnets.percept_dim(config.convnet))
