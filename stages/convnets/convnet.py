"""A convnet as percepts need it: frames_NHWC uint8 -> percepts_ND float16, from one layer, pooled to a grid.

    convnet = build(ConvnetConfig(name="efficientnet_lite0", layer="blocks.4", grid=4, input_px=96))
    percepts_ND = convnet(frames_NHWC)

Shapes: N frames, H x W pixels (both input_px), C channels, G x G grid cells, D = C * G * G, channel-major.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.errors import ConfigError, RunError
from stages.convnets import registry
from stages.convnets.config import ConvnetConfig, check_grid
from stages.convnets.weights import Weights, digest

if TYPE_CHECKING:  # torch takes seconds to import, and a plan needs dimensions and digests alone
    from torch import nn

    from stages.convnets.engines import Engine, Frames, Percepts


def _architecture(config: ConvnetConfig) -> registry.RegisteredArchitecture:
    registered = registry.find_architecture(config.name, config.plugin)
    names = registered.architecture.layers()
    if config.layer not in names:
        raise ConfigError(
            f"--extract.convnet.layer: convnet {config.name} has no layer {config.layer!r}; choose one of "
            f"{', '.join(names)}"
        )
    return registered


def _weights(config: ConvnetConfig, architecture: registry.Architecture) -> Weights | None:
    if not architecture.needs_weights():
        return None
    if config.weights is not None and config.weights_sha256 is None:
        sha256 = digest(config.weights)
        raise ConfigError(
            f"--extract.convnet.weights: {config.weights} needs the sha256 that it must have: that file has {sha256}; "
            "give it as weights_sha256 if you trust the file"
        )
    if config.weights is not None and config.weights_sha256 is not None:
        return Weights(config.weights, config.weights_sha256.lower())
    shipped = architecture.default_weights()
    if shipped is None:
        raise ConfigError(
            f"--extract.convnet.weights: convnet {config.name} has no weights of its own; give weights (a URI) and "
            "weights_sha256 (its sha256)"
        )
    return Weights(str(shipped), digest(str(shipped)))


def _network(config: ConvnetConfig, architecture: registry.Architecture) -> nn.Module:
    """Builds the network: x_BCHW float32 in 0..255 -> y_BCHW or y_BD, weights not loaded."""
    network = (
        architecture.network(config.layer, config.input_px)
        if config.in_channels == 3
        else architecture.flow_network(config.layer, config.input_px, config.in_channels)
    )
    return network.eval().requires_grad_(False)


def _output_shape(config: ConvnetConfig, architecture: registry.Architecture) -> tuple[int, ...]:
    """Returns what the network gives for a frame, (C, h, w) or (D,): as it is known, or from a dry run without memory.

    Raises ConfigError where the grid does not fit it.
    """
    known = architecture.output_shape(config.layer, config.input_px) if config.in_channels == 3 else None
    shape = _dry_run(config, architecture) if known is None else known
    if len(shape) == 3:
        check_grid(*shape[1:], config.grid)
    elif config.grid != 1:
        raise ConfigError(
            f"--extract.convnet.grid: layer {config.layer} is a vector and has no {config.grid}-cell grid; set grid=1"
        )
    return shape


def _dry_run(config: ConvnetConfig, architecture: registry.Architecture) -> tuple[int, ...]:
    import torch

    with torch.device("meta"):
        y = _network(config, architecture)(torch.empty(1, config.in_channels, config.input_px, config.input_px))
    return tuple(y.shape[1:])


def _dim(config: ConvnetConfig, shape: tuple[int, ...]) -> int:
    return shape[0] * (config.grid**2 if len(shape) == 3 else 1)


def percept_dim(config: ConvnetConfig) -> int:
    """Returns the percept dimension D, without loading weights.

    Raises:
        ConfigError: no such convnet or layer, or a grid finer than the layer's map.
    """
    return _dim(config, _output_shape(config, _architecture(config).architecture))


def identity(config: ConvnetConfig) -> dict[str, Any]:
    """Returns all that decides the percepts of a frame as JSON values: settings, weights' digest, code versions.

    The weights' address is not part of it, nor is the name of a plugin's module: its bytes are.

    Raises:
        ConfigError, SourceError: as `build`.
        DigestError: the weights do not have the promised sha256.
    """
    registered = _architecture(config)
    weights = _weights(config, registered.architecture)
    if weights is not None:
        weights.check()
    settings = {key: value for key, value in asdict(config).items() if key not in ("weights", "plugin")}
    return settings | {
        "weights_sha256": None if weights is None else weights.sha256,
        "plugin_sha256": registered.plugin_sha256,
        "version": registered.architecture.version,
    }


@dataclass(frozen=True)
class Convnet:
    """A network ready to run on this machine."""

    config: ConvnetConfig
    dim: int
    """D, values in a percept."""
    engine: Engine

    @property
    def batch_frames(self) -> int:
        """Frames in each batch of `stream`."""
        return self.engine.batch_frames

    def new_batch(self) -> Frames:
        """Returns memory for a full batch: uint8 (batch_frames, input_px, input_px, in_channels), not initialised."""
        return self.engine.new_batch((self.batch_frames, *self._frame_shape))

    @property
    def _frame_shape(self) -> tuple[int, int, int]:
        return self.config.input_px, self.config.input_px, self.config.in_channels

    def __call__(self, frames_NHWC: Frames) -> Percepts:
        """Returns percepts of any number of frames: uint8 (N, input_px, input_px, in_channels) -> float16 (N, D).

        Raises:
            RunError: an activation is too large for float16 (above 65504) or not a number.
        """
        num_frames, size = len(frames_NHWC), self.batch_frames
        batches = (frames_NHWC[first : first + size] for first in range(0, num_frames, size))
        percepts = list(self.stream(batches))
        return np.concatenate(percepts) if percepts else np.zeros((0, self.dim), np.float16)

    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        """Yields percepts (n, D) of each batch of n <= batch_frames frames, in order. Raises RunError as above."""
        lengths: list[int] = []

        def padded() -> Iterator[Frames]:
            for batch_BHWC in batches_BHWC:
                lengths.append(len(batch_BHWC))
                yield self._padded(batch_BHWC)

        for percepts_BD in self.engine.stream(padded()):
            percepts_ND = percepts_BD[: lengths.pop(0)]
            if not np.isfinite(percepts_ND).all():
                raise RunError(
                    f"{self.config.name} {self.config.layer} gave a value that float16 cannot hold: try another layer"
                )
            yield percepts_ND

    def _padded(self, batch_BHWC: Frames) -> Frames:
        assert batch_BHWC.dtype == np.uint8, batch_BHWC.dtype
        assert batch_BHWC.shape[1:] == self._frame_shape, batch_BHWC.shape
        if len(batch_BHWC) == self.batch_frames:
            return np.ascontiguousarray(batch_BHWC)
        filled_BHWC = self.new_batch()
        filled_BHWC[: len(batch_BHWC)] = batch_BHWC
        filled_BHWC[len(batch_BHWC) :] = 0
        return filled_BHWC


def load_network(config: ConvnetConfig) -> tuple[nn.Module, int]:
    """Loads plain torch: x_BCHW float32 RGB in 0..255 -> percepts_BD float32; and D.

    Raises:
        ConfigError, DigestError, SourceError: as `build`.
    """
    from torch import nn

    from stages.convnets.layers import grid_pooling

    architecture = _architecture(config).architecture
    shape = _output_shape(config, architecture)
    pooling = grid_pooling(*shape[1:], config.grid) if len(shape) == 3 else nn.Identity()
    network = _network(config, architecture)
    weights = _weights(config, architecture)
    if weights is not None:
        architecture.load(network, weights.load())
    return nn.Sequential(network, pooling).eval(), _dim(config, shape)


def build(
    config: ConvnetConfig, *, device: str | None = None, num_threads: int = 1, compiled_code: Path | None = None
) -> Convnet:
    """Loads the network and chooses the fastest engine for it; see `stages.convnets.engines`.

    `device` is "cpu" or "cuda"; None takes the GPU where there is one. `num_threads` is the number of
    cores that the CPU's engine computes on. `compiled_code` is the directory of this node where the GPU's engine keeps
    compiled code for the next process; None: one of this user in the temporary directory.

    Raises:
        ConfigError: no such convnet or layer, a grid finer than the map, weights missing or of another network.
        DigestError: the weights do not have the promised sha256.
        SourceError: there are no weights at the URI.
        RunError: the engine does not agree with plain torch.
    """
    import torch

    from stages.convnets import engines

    network, dim = load_network(config)
    engine = engines.choose_engine(
        network,
        config.input_px,
        config.in_channels,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
        num_threads=num_threads,
        compiled_code=compiled_code,
    )
    return Convnet(config, dim, engine)
