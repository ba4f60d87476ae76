"""Everything that decides the percepts of a video, and the fingerprint that stands for it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from pipeline.core.errors import ConfigError, DigestError
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


def config_of(extractor: Extractor, *, weights: str | None = None) -> ExtractionConfig:
    """Returns the config that an extractor was made from.

    weights: URI of the convnet's weights, where they are not those of a package.

    Raises:
        ConfigError: the extractor is no convnet of ours.
    """
    settings = extractor.settings.get("convnet")
    if settings is None:
        raise ConfigError(f"these percepts were made by {extractor.settings}, which is no convnet that can be run here")
    known = {field.name for field in fields(ConvnetConfig)} & set(settings) - {"weights_sha256"}
    allocation = {name: settings[name] for name in known}
    if weights is not None:
        allocation |= {"weights": weights, "weights_sha256": settings["weights_sha256"]}
    return ExtractionConfig(
        convnet=ConvnetConfig(**allocation),
        decode=DecodeConfig(**extractor.settings["decode"]),
        limits=Limits(**extractor.settings["limits"]),
        compression=extractor.settings["compression"],
    )


def check_convnet(needed: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Checks that the convnet at hand is the one that made percepts, by what `stages.convnets.convnet.identity` says.

    Raises:
        DigestError: the weights at hand are others, or the network's code is.
    """
    if here["weights_sha256"] != needed["weights_sha256"]:
        raise DigestError(
            f"the weights of {needed['name']} here have sha256 {here['weights_sha256']}, the percepts were made with "
            f"{needed['weights_sha256']}: install the same ones, or give a file of percepts instead of a video"
        )
    changed = sorted(name for name in needed if needed[name] != here.get(name))
    if changed:
        raise DigestError(
            f"the convnet {needed['name']} here differs from the one that made the percepts ({', '.join(changed)}): "
            "use the version of percepts, or of the plugin, that made them"
        )


DECIDING: Final = ("convnet", "decode", "opencv")
"""The settings of an extractor that decide the values of a percept; limits decide which videos have some."""


def check_alike(learned: Extractor, given: Extractor, model: str) -> None:
    """Checks that a model reads percepts like those that it learned from.

    model: the model in a word, for the message.

    Raises:
        ConfigError: frames were decoded in another way, or processed by another convnet.
    """
    if differing := [name for name in DECIDING if learned.settings.get(name) != given.settings.get(name)]:
        raise ConfigError(
            f"the {model} learned from other percepts than these, which differ in {' and '.join(differing)}: extract "
            "the videos as those that it learned from were"
        )
