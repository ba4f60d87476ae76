"""Any convnet of timm or torchvision, where the user has installed them: `timm/resnet18`, `torchvision/resnet50`.

    --convnet.name timm/resnet18 --convnet.layer layer3 --convnet.weights URI --convnet.weights-sha256 HEX

A layer is the name of any submodule whose output is a map (B, C, h, w) or a vector (B, D); timm's models also have
`pooled`, the vector in front of the classifier. Of timm's vision transformers (DINOv2, DINOv3, SigLIP, CLIP ...) a
layer may be tokens (B, N, C): their patches are a map, `blocks.11:mean` is the mean of all patches, `blocks.11:class`
the class token. What lies behind the layer does not run. Weights are the model's own state dict, or a published one
that timm converts, by URI and sha256 as for every convnet: neither library downloads anything here. Frames are
normalised by the mean and standard deviation that timm names for the model (with its tag:
`vit_base_patch16_clip_224.openai`), or by ImageNet's; a transformer is built for the frames' size, and its position
embedding is resampled as timm does.

Shapes: B frames, C channels, D vector values, N tokens.
"""

import difflib
import importlib
import math
import re
import sys
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from pipeline.core.errors import ConfigError
from stages.convnets.layers import Normalize, Opaque
from stages.convnets.registry import Architecture, load_named
from stages.convnets.vgg16 import IMAGENET_MEAN_RGB, IMAGENET_STD_RGB

POOLED: Final = "pooled"
ZOOS: Final = ("timm", "torchvision")
CLASS, MEAN = ":class", ":mean"
"""Ends of the name of a layer of tokens: the class token alone, or the mean of all patches."""
TOKEN_LAYERS: Final = re.compile(r"blocks\.\d+|norm")


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
        self.layer, self.part = layer, ""
        for part in (CLASS, MEAN):
            if layer.endswith(part):
                self.layer, self.part = layer.removesuffix(part), part

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
        num_prefix = getattr(self.model, "num_prefix_tokens", None)
        if isinstance(output, Tensor) and output.ndim == 3 and isinstance(num_prefix, int):
            return self._of_tokens(output, num_prefix)
        if not isinstance(output, Tensor) or output.ndim not in (2, 4) or self.part:
            what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            wanted = "tokens of timm's" if self.part else "a map (B, C, h, w) nor a vector (B, D)"
            said = f"layer {self.layer} gives {what}, "
            raise ConfigError(f"{said}{'not' if self.part else 'neither'} {wanted}; choose another one")
        return output

    def _of_tokens(self, tokens_BNC: Tensor, num_prefix: int) -> Tensor:
        """Returns the class token or the mean of the patches, (B, C), or the patches as a square map."""
        if self.part == CLASS:
            if not num_prefix or getattr(self.model, "cls_token", None) is None:
                raise ConfigError(f"this model has no class token; choose {self.layer}{MEAN} or {POOLED}")
            return tokens_BNC[:, 0]
        patches_BNC = tokens_BNC[:, num_prefix:]
        if self.part == MEAN:
            return patches_BNC.mean(1)
        batch, num_patches, channels = patches_BNC.shape
        side = math.isqrt(num_patches)
        if side**2 != num_patches:
            raise ConfigError(f"layer {self.layer} has {num_patches} patches, no square map; choose {self.layer}{MEAN}")
        return patches_BNC.transpose(1, 2).reshape(batch, channels, side, side)


def _stop(module: nn.Module, inputs: Any, output: Any) -> None:
    raise _Reached(output)


class ZooModel(Architecture):
    """A model of one of the two libraries, by its name there."""

    def __init__(self, zoo: str, model: str) -> None:
        self._zoo, self._name = zoo, model
        self._library = _library(zoo)
        # Another version of the library may build another network for the name.
        self.version = f"{zoo} {self._library.__version__}"
        known = self._known(with_tags="." in model)
        if model not in known:
            near = difflib.get_close_matches(model, known, n=4, cutoff=0.3)
            raise ConfigError(f"{zoo} has no model {model!r}; near it are {', '.join(near) or 'none'}")

    def _known(self, *, with_tags: bool) -> list[str]:
        if self._zoo == "timm":
            return list(self._library.list_models(pretrained=True) if with_tags else self._library.list_models())
        return list(self._library.models.list_models())

    def _model(self, input_px: int | None = None) -> nn.Module:
        """Builds the model, for square frames of this size where its position embedding depends on it."""
        if self._zoo != "timm":
            return cast(nn.Module, self._library.models.get_model(self._name, weights=None))
        # Without a classifier: its size depends on labels.
        make = partial(self._library.create_model, self._name, pretrained=False, num_classes=0)
        if input_px is None:
            return cast(nn.Module, make())
        with torch.device("meta"):
            model: Any = make()
        settings = getattr(model, "pretrained_cfg", None) or {}
        patch_px = getattr(getattr(model, "patch_embed", None), "patch_size", (1,))[0]
        if input_px % patch_px:
            near = max(1, round(input_px / patch_px)) * patch_px
            raise ConfigError(
                f"{self._name} has patches of {patch_px} px, and input_px {input_px} is no multiple: {near} is"
            )
        is_native = input_px == settings.get("input_size", (3, input_px, input_px))[-1]
        is_transformer = getattr(model, "num_prefix_tokens", None) is not None
        return cast(nn.Module, make() if is_native or not is_transformer else make(img_size=input_px))

    def layers(self) -> tuple[str, ...]:
        with torch.device("meta"):
            model = self._model()
        names = [name for name, _ in model.named_modules() if name]
        if self._zoo != "timm":
            return tuple(names)
        has_tokens = getattr(model, "num_prefix_tokens", None) is not None
        token_layers = [name for name in names if has_tokens and TOKEN_LAYERS.fullmatch(name)]
        return (*names, POOLED, *(f"{name}{part}" for name in token_layers for part in (MEAN, CLASS)))

    def network(self, layer: str, input_px: int) -> nn.Module:
        model = self._model(input_px)
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
        if any(name not in state or state[name].shape != tensor.shape for name, tensor in wanted.items()):
            state = self._converted(state, cut.model)
        load_named(cut.model, state, f"weights of {self._zoo}/{self._name}", "give the state dict of that very model")

    def _converted(self, state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
        """Returns a published checkpoint in the names and shapes of the model, as far as timm knows how."""
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        if convert is None:
            return state
        try:
            return cast(Mapping[str, Tensor], convert(dict(state), model))
        except Exception as error:  # timm's converters assume the checkpoints that they are for
            raise ConfigError(f"weights of {self._zoo}/{self._name} cannot be converted: {error!r}") from error


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
