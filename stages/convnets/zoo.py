"""Any convnet of timm or torchvision, where the user has installed them: `timm/resnet18`, `torchvision/resnet50`.

    --convnet.name timm/resnet18 --convnet.layer layer3 --convnet.weights URI --convnet.weights-sha256 HEX

A layer is the name of any submodule whose output is a map (B, C, h, w) or a vector (B, D); timm's models also have
`pooled`, the vector in front of the classifier. What lies behind the layer does not run. Weights are the model's own
state dict, by URI and sha256 as for every convnet: neither library downloads anything here. Frames are normalised by
the mean and standard deviation that timm names for the model, or by ImageNet's.

Shapes: B frames, C channels, D vector values.
"""

import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from pipeline.core.errors import ConfigError
from stages.convnets.layers import Normalize, Opaque
from stages.convnets.registry import Architecture
from stages.convnets.vgg16 import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB

POOLED: Final = "pooled"
ZOOS: Final = ("timm", "torchvision")


class _Reached(Exception):
    """The layer has given its output."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class CutAt(Opaque):
    """x_BCHW -> what the submodule `layer` of `model` gives out the first time that it runs; the rest does not run."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model = model
        self.layer = layer

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.layer == POOLED:
            model = cast(Any, self.model)
            return self._checked(model.forward_head(model.forward_features(x_BCHW), pre_logits=True))
        if self.is_exporting:
            return self._run_whole(x_BCHW)
        handle = self.model.get_submodule(self.layer).register_forward_hook(_stop)
        try:
            self.model(x_BCHW)
        except _Reached as reached:
            return self._checked(reached.output)
        finally:
            handle.remove()
        raise ConfigError(f"layer {self.layer} never runs when the model does; choose another one")

    def _run_whole(self, x_BCHW: Tensor) -> Tensor:
        """Returns the layer's output after the whole model has run; the exporter drops what it does not need."""
        outputs: list[Any] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs.append(output)

        handle = self.model.get_submodule(self.layer).register_forward_hook(keep)
        try:
            self.model(x_BCHW)
        finally:
            handle.remove()
        return self._checked(outputs[0])

    def _checked(self, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(
                f"layer {self.layer} gives {what}, neither a map (B, C, h, w) nor a vector (B, D); choose another one"
            )
        return output


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)


class ZooModel(Architecture):
    """A model of one of the two libraries, by its name there."""

    def __init__(self, zoo: str, model: str) -> None:
        self._zoo, self._name = zoo, model
        self._library = _library(zoo)
        # Another version of the library may build another network for the name.
        self.version = f"{zoo} {self._library.__version__}"
        known = self._known()
        if model not in known:
            near = difflib.get_close_matches(model, known, n=4, cutoff=0.3)
            raise ConfigError(f"{zoo} has no model {model!r}; near it are {', '.join(near) or 'none'}")

    def _known(self) -> list[str]:
        return list(self._library.list_models() if self._zoo == "timm" else self._library.models.list_models())

    def _model(self) -> nn.Module:
        if self._zoo == "timm":
            # Without a classifier: its size depends on labels.
            return cast(nn.Module, self._library.create_model(self._name, pretrained=False, num_classes=0))
        return cast(nn.Module, self._library.models.get_model(self._name, weights=None))

    def layers(self) -> tuple[str, ...]:
        with torch.device("meta"):
            names = [name for name, _ in self._model().named_modules() if name]
        return (*names, POOLED) if self._zoo == "timm" else tuple(names)

    def network(self, layer: str, input_px: int) -> nn.Module:
        model = self._model()
        settings = getattr(model, "pretrained_cfg", None) or {}
        means = tuple(settings.get("mean") or IMAGENET_MEAN_RGB)
        deviations = tuple(settings.get("std") or IMAGENET_STD_RGB)
        to_input = Normalize(tuple(255 * mean for mean in means), tuple(1 / (255 * std) for std in deviations))
        return nn.Sequential(to_input, CutAt(model, layer))

    def load(self, network: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Raises ConfigError: a tensor of the model is missing, or of another shape."""
        assert isinstance(network, nn.Sequential)
        cut = network[-1]
        assert isinstance(cut, CutAt)
        wanted = cut.model.state_dict()
        for name, tensor in wanted.items():
            if name not in state or state[name].shape != tensor.shape:
                actual = tuple(state[name].shape) if name in state else "nothing"
                raise ConfigError(
                    f"weights of {self._zoo}/{self._name} have {actual} under {name!r}, not {tuple(tensor.shape)}; "
                    "give the state dict of that very model"
                )
        cut.model.load_state_dict({name: state[name] for name in wanted})


def _library(zoo: str) -> ModuleType:
    try:
        module = importlib.import_module(zoo)
        if zoo == "torchvision":
            importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError) as error:
        needs = "timm, and torchvision that fits your torch" if zoo == "timm" else "torchvision that fits your torch"
        raise ConfigError(f"convnets {zoo}/... need {needs}: {error}") from error
    return module


def find_in_zoo(name: str) -> ZooModel | None:
    """Finds the model of a name such as `timm/resnet18`; None where the name is not of that kind.

    Raises:
        ConfigError: the library cannot be imported, or has no such model.
    """
    zoo, separator, model = name.partition("/")
    return ZooModel(zoo, model) if separator and zoo in ZOOS else None
