"""The convnets that exist, by name; a user adds his own in a file of his own.

    # my_convnets.py, anywhere on PYTHONPATH
    from stages.convnets.registry import Architecture, register

    @register("my_net")
    class MyNet(Architecture):
        def layers(self) -> tuple[str, ...]: return ("last",)
        def network(self, layer: str, input_px: int) -> nn.Module: return ...

and names both: `--convnet.plugin my_convnets --convnet.name my_net`.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pipeline.core.errors import ConfigError
from pipeline.core.files import sha256_file

if TYPE_CHECKING:  # torch takes seconds to import, and a plan needs no network
    from torch import Tensor, nn

BUILT_IN: Final = ("efficientnet_lite", "vgg16", "pixels")
"""Modules of this package that register architectures."""


class Architecture(ABC):
    """A family of networks that percepts are taken from. Holds no state: weights live in the networks it makes."""

    version: int | str = 1
    """Raise it when the same weights and frames would give other percepts than before: it enters the fingerprint."""

    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the layers that percepts may be taken from, from the input on."""

    @abstractmethod
    def network(self, layer: str, input_px: int) -> nn.Module:
        """Builds the network up to `layer`, with weights still to be loaded.

        It maps x_BCHW float32 (RGB in 0..255, H = W = input_px) to a map y_BCHW, which is then pooled to the grid, or
        to a vector y_BD.
        """

    def flow_network(self, layer: str, input_px: int, in_channels: int) -> nn.Module:
        """Builds the network for optical flow: x_BCHW float32 in 0..255, C = in_channels = 2 L.

        The channels are x and y of L fields in turn.

        Raises:
            ConfigError: unless overridden: the network takes RGB.
        """
        raise ConfigError(
            f"this convnet takes RGB frames and not {in_channels} channels of flow; choose vgg16_flow, or "
            "set in_channels=3"
        )

    def output_shape(self, layer: str, input_px: int) -> tuple[int, ...] | None:
        """Returns the shape that `network` gives for a frame, (C, h, w) or (D,), without building it; None: unknown.

        For plans. Where it is unknown, the network is built without memory.

        Raises:
            ConfigError: the layer needs another `input_px`.
        """
        return None

    def default_weights(self) -> Path | None:
        """Returns weights that an installed package ships, or None: then the user names a URI and its sha256."""
        return None

    def needs_weights(self) -> bool:
        """Returns False for a network without parameters."""
        return True

    def load(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Loads the weights of `network` from a checkpoint. Unless overridden, names must agree."""
        network.load_state_dict(dict(state))


def load_named(network: nn.Module, state: Mapping[str, Tensor], what: str, advice: str) -> None:
    """Loads the weights of a network by their names; keys that it does not have are left alone.

    what, advice: the checkpoint, and the one to give instead, for the message.

    Raises:
        ConfigError: a key is missing, or a shape is another one.
    """
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state or state[name].shape != tensor.shape:
            actual = tuple(state[name].shape) if name in state else "nothing"
            raise ConfigError(f"{what} have {actual} under {name!r}, not {tuple(tensor.shape)}; {advice}")
    network.load_state_dict({name: state[name] for name in wanted})


A = TypeVar("A", bound=type[Architecture])
_ARCHITECTURES: dict[str, Architecture] = {}


def register(name: str) -> Callable[[A], A]:
    """Class decorator: makes an Architecture known by `name`."""

    def decorate(cls: A) -> A:
        _ARCHITECTURES[name] = cls()
        return cls

    return decorate


@dataclass(frozen=True)
class RegisteredArchitecture:
    """A registered architecture, and the digest of the user's file where it is one of the user's."""

    architecture: Architecture
    plugin_sha256: str | None


def import_plugin(plugin: str) -> None:
    """Imports a module that registers a convnet. Raises ConfigError."""
    try:
        importlib.import_module(plugin)
    except ImportError as error:
        raise ConfigError(f"convnet plugin {plugin!r} cannot be imported: {error}; put it on PYTHONPATH") from error


def find_architecture(name: str, plugin: str | None) -> RegisteredArchitecture:
    """Finds the architecture of that name, after importing the module `plugin`, if one is named.

    Raises:
        ConfigError: no such module, or no architecture of that name; the message lists those that are known.
    """
    for module_name in BUILT_IN:
        importlib.import_module(f"stages.convnets.{module_name}")
    if plugin is not None:
        import_plugin(plugin)
    if "/" in name:  # the zoo imports torch
        zoo_model = importlib.import_module("stages.convnets.zoo").find_in_zoo(name)
        if zoo_model is not None:
            return RegisteredArchitecture(zoo_model, None)
    if name not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise ConfigError(
            f"there is no convnet {name!r}; choose one of {known}, timm/... or torchvision/..., "
            "or name a plugin that registers it"
        )
    architecture = _ARCHITECTURES[name]
    module = type(architecture).__module__
    source = sys.modules[module].__file__
    is_builtin = module.startswith("stages.convnets.")
    return RegisteredArchitecture(architecture, None if is_builtin or source is None else sha256_file(source))
