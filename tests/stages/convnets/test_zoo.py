"""Models of timm and torchvision. Where these are not installed, a stand-in with the part of their interface that is
used: timm.create_model, list_models, pretrained_cfg, forward_features, forward_head; torchvision.models.get_model,
list_models."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.errors import ConfigError
from pipeline.core.files import sha256_file
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import build, identity, percept_dim


class TinyNet(nn.Module):
    """Maps, a vector and tokens; counts how often its last layer runs."""

    pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5)}  # noqa: RUF012

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.SiLU())
        self.body = nn.Conv2d(4, 6, 3, 2, 1)
        self.tokens = nn.Flatten(2)
        self.fc = nn.Linear(6, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(self.stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.tokens(x).mean(2)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@pytest.fixture
def zoos(monkeypatch: pytest.MonkeyPatch) -> None:
    timm, torchvision, models = ModuleType("timm"), ModuleType("torchvision"), ModuleType("torchvision.models")
    made: Any = {"tiny_net": TinyNet, "tiny_net_2": TinyNet}
    timm.__version__, torchvision.__version__ = "1.0", "0.1"  # type: ignore[attr-defined]
    timm.list_models = models.list_models = lambda: list(made)  # type: ignore[attr-defined]
    timm.create_model = lambda name, pretrained, num_classes: made[name](num_classes)  # type: ignore[attr-defined]
    models.get_model = lambda name, weights: made[name](10)  # type: ignore[attr-defined]
    torchvision.models = models  # type: ignore[attr-defined]
    for module in (timm, torchvision, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def saved(path: Path, num_classes: int) -> tuple[TinyNet, dict[str, str]]:
    """A trained model, and the settings that name its weights."""
    torch.manual_seed(0)
    model = TinyNet(num_classes).train()
    model(torch.randn(8, 3, 32, 32))  # statistics for the normalisation
    save_file({name: tensor.detach() for name, tensor in model.state_dict().items()}, path)
    return model.eval(), {"weights": str(path), "weights_sha256": sha256_file(str(path))}


@pytest.mark.parametrize(
    ("name", "layer", "grid"),
    [
        ("timm/tiny_net", "stem", 2),
        ("timm/tiny_net", "stem.1", 1),
        ("timm/tiny_net", "pooled", 1),
        ("torchvision/tiny_net", "body", 3),
        ("torchvision/tiny_net", "fc", 1),
    ],
)
def test_percepts_are_the_models_own(zoos: None, tmp_path: Path, name: str, layer: str, grid: int) -> None:
    # A published file holds a classifier, which timm's model is built without.
    model, weights = saved(tmp_path / "tiny.safetensors", 10)
    convnet = build(ConvnetConfig(name=name, layer=layer, grid=grid, input_px=32, **weights), device="cpu")
    frames_NHWC = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    mean, std = (np.array(TinyNet.pretrained_cfg[key]) for key in ("mean", "std"))
    x_NCHW = torch.from_numpy(((frames_NHWC / 255 - mean) / std).transpose(0, 3, 1, 2)).float()
    kept: dict[str, Tensor] = {}
    if layer != "pooled":
        model.get_submodule(layer).register_forward_hook(lambda _, __, y: kept.update(y=y))
    with torch.inference_mode():
        model(x_NCHW)
        y = kept["y"] if kept else model.forward_head(model.forward_features(x_NCHW), pre_logits=True)
        expected = nn.functional.adaptive_avg_pool2d(y, grid).flatten(1) if y.ndim == 4 else y
    np.testing.assert_allclose(convnet(frames_NHWC), expected, rtol=2e-3, atol=2e-3)
    assert convnet.engine.name == ("onnxruntime" if find_spec("onnxscript") else "torch-cpu")


def test_what_lies_behind_the_layer_does_not_run(zoos: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, weights = saved(tmp_path / "tiny.safetensors", 10)
    convnet = build(ConvnetConfig(name="torchvision/tiny_net", layer="stem", input_px=32, **weights), device="cpu")
    monkeypatch.setattr(nn.Linear, "forward", lambda *_: pytest.fail("the classifier ran"))
    assert convnet(np.zeros((1, 32, 32, 3), np.uint8)).shape == (1, 4)


def test_versions_of_the_library_are_other_percepts(
    zoos: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, weights = saved(tmp_path / "tiny.safetensors", 10)
    config = ConvnetConfig(name="timm/tiny_net", layer="stem", input_px=32, **weights)
    assert identity(config)["version"] == "timm 1.0"
    monkeypatch.setattr(sys.modules["timm"], "__version__", "1.1")
    assert identity(config)["version"] == "timm 1.1"


def test_what_cannot_be_asked_for(zoos: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timm has no model 'tiny_nets'; near it are tiny_net"):
        percept_dim(ConvnetConfig(name="timm/tiny_nets", layer="stem"))
    with pytest.raises(ConfigError, match=r"has no layer 'top'; choose one of stem, stem\.0"):
        percept_dim(ConvnetConfig(name="timm/tiny_net", layer="top"))
    with pytest.raises(ConfigError, match=r"layer tokens gives \(1, 6, 64\), neither a map"):
        percept_dim(ConvnetConfig(name="timm/tiny_net", layer="tokens", input_px=32))
    with pytest.raises(ConfigError, match="has no weights of its own"):
        build(ConvnetConfig(name="timm/tiny_net", layer="stem", input_px=32), device="cpu")
    _, weights = saved(tmp_path / "tiny.safetensors", 7)
    with pytest.raises(ConfigError, match=r"have \(7, 6\) under 'fc.weight', not \(10, 6\)"):
        build(ConvnetConfig(name="torchvision/tiny_net", layer="stem", input_px=32, **weights), device="cpu")


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"convnets timm/\.\.\. need timm, and torchvision that fits your torch"):
        percept_dim(ConvnetConfig(name="timm/resnet18", layer="layer3"))


@pytest.mark.skipif(find_spec("onnxscript") is None, reason="needs the extra zoo")
def test_a_model_that_cannot_be_exported_runs_in_torch(
    zoos: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutOperator(TinyNet):
        def forward_features(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(super().forward_features(x))  # ONNX has no such operator

    monkeypatch.setattr(sys.modules["timm"], "create_model", lambda name, pretrained, num_classes: WithoutOperator(0))
    _, weights = saved(tmp_path / "tiny.safetensors", 0)
    convnet = build(ConvnetConfig(name="timm/tiny_net", layer="pooled", input_px=32, **weights), device="cpu")
    assert convnet.engine.name == "torch-cpu"
