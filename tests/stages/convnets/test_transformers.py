"""Vision transformers of timm as convnets: a stand-in with what is used of timm's interface, and timm itself where it
is installed, with random weights, against its own features."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.errors import ConfigError
from pipeline.core.files import sha256_file
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import identity, load_network, percept_dim

try:
    timm: Any = importlib.import_module("timm")
except (ImportError, RuntimeError):  # torchvision may not fit this torch
    timm = None


class TinyTransformer(nn.Module):
    """Patches of 8 px, a class token in front, a position embedding for one size of frames."""

    pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5), "input_size": (3, 32, 32)}  # noqa: RUF012

    def __init__(self, img_size: int = 32, *, has_class: bool = True) -> None:
        super().__init__()
        self.num_prefix_tokens = int(has_class)
        self.patch_embed = nn.Conv2d(3, 6, 8, 8)
        self.patch_embed.patch_size = (8, 8)  # type: ignore[assignment]
        self.cls_token = nn.Parameter(torch.randn(1, 1, 6)) if has_class else None
        self.pos_embed = nn.Parameter(torch.randn(1, (img_size // 8) ** 2, 6))
        self.blocks = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        self.norm = nn.LayerNorm(6)

    def forward_features(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1)
        return self.norm(self.blocks(tokens))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return x[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def checkpoint_filter_fn(state: dict[str, Tensor], model: TinyTransformer) -> dict[str, Tensor]:
    """As timm's modules have it: published names to the model's, and the position embedding to its size."""
    state = {name.removeprefix("visual."): tensor for name, tensor in state.items()}
    side = int(model.pos_embed.shape[1] ** 0.5)
    old = int(state["pos_embed"].shape[1] ** 0.5)
    map_BCHW = state["pos_embed"].transpose(1, 2).reshape(1, 6, old, old)
    state["pos_embed"] = nn.functional.interpolate(map_BCHW, (side, side)).flatten(2).transpose(1, 2)
    return state


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("timm")
    made: Any = {"tiny": {}, "tiny.classless": {"has_class": False}}
    library.__version__ = "1.0"  # type: ignore[attr-defined]
    library.list_models = lambda pretrained=False: [n for n in made if pretrained or "." not in n]  # type: ignore[attr-defined]
    library.create_model = (  # type: ignore[attr-defined]
        lambda name, pretrained, num_classes, img_size=32: TinyTransformer(img_size, **made[name])
    )
    monkeypatch.setitem(sys.modules, "timm", library)


def saved(path: Path, model: nn.Module, prefix: str = "") -> dict[str, Any]:
    save_file({prefix + name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, path)
    return {"weights": str(path), "weights_sha256": sha256_file(str(path))}


def frames_of(input_px: int, config: dict[str, Any]) -> tuple[npt.NDArray[np.uint8], Tensor]:
    """Random frames, and what a model with such settings reads of them."""
    frames_NHWC = np.random.default_rng(0).integers(0, 256, (2, input_px, input_px, 3), dtype=np.uint8)
    mean, std = (np.array(config[key]) for key in ("mean", "std"))
    return frames_NHWC, torch.from_numpy(((frames_NHWC / 255 - mean) / std).transpose(0, 3, 1, 2)).float()


def run(config: ConvnetConfig, frames_NHWC: npt.NDArray[np.uint8]) -> Tensor:
    """The percepts of the plain network, which engines are checked against."""
    network, dim = load_network(config)
    with torch.inference_mode():
        percepts: Tensor = network(torch.from_numpy(frames_NHWC.transpose(0, 3, 1, 2)).float())
    assert percepts.shape == (len(frames_NHWC), dim)
    return percepts


def test_layers_of_tokens(stand_in: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TinyTransformer().eval()
    weights = saved(tmp_path / "tiny.safetensors", model)
    frames_NHWC, x_NCHW = frames_of(32, TinyTransformer.pretrained_cfg)
    with torch.inference_mode():
        tokens = model.forward_features(x_NCHW)
    maps = tokens[:, 1:].transpose(1, 2).reshape(2, 6, 4, 4)
    expected = {
        ("norm:class", 1): tokens[:, 0],
        ("norm:mean", 1): tokens[:, 1:].mean(1),
        ("norm", 1): tokens[:, 1:].mean(1),
        ("norm", 2): nn.functional.adaptive_avg_pool2d(maps, 2).flatten(1),
        ("pooled", 1): tokens[:, 0],
    }
    for (layer, grid), percepts in expected.items():
        config = ConvnetConfig(name="timm/tiny", layer=layer, grid=grid, input_px=32, **weights)
        np.testing.assert_allclose(run(config, frames_NHWC), percepts, rtol=1e-4, atol=1e-4)


def test_other_frames_and_published_names_are_converted_as_the_library_does(stand_in: None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TinyTransformer().eval()
    weights = saved(tmp_path / "published.safetensors", model, "visual.")
    larger = TinyTransformer(48).eval()
    larger.load_state_dict(checkpoint_filter_fn(model.state_dict(), larger))
    frames_NHWC, x_NCHW = frames_of(48, TinyTransformer.pretrained_cfg)
    with torch.inference_mode():
        expected = larger.forward_features(x_NCHW)[:, 1:].mean(1)
    percepts = run(ConvnetConfig(name="timm/tiny", layer="norm:mean", input_px=48, **weights), frames_NHWC)
    np.testing.assert_allclose(percepts, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_asked_for(stand_in: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="patches of 8 px, and input_px 30 is no multiple: 32 is"):
        percept_dim(ConvnetConfig(name="timm/tiny", layer="norm", input_px=30))
    with pytest.raises(ConfigError, match="no class token; choose norm:mean or pooled"):
        percept_dim(ConvnetConfig(name="timm/tiny.classless", layer="norm:class", input_px=32))
    with pytest.raises(ConfigError, match=r"timm has no model 'tiny.clasless'; near it are tiny.classless"):
        percept_dim(ConvnetConfig(name="timm/tiny.clasless", layer="norm"))
    weights = saved(tmp_path / "other.safetensors", nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="cannot be converted: KeyError") as refused:
        load_network(ConvnetConfig(name="timm/tiny", layer="norm", input_px=32, **weights))
    assert "\n" not in str(refused.value)


TODAYS = [
    ("vit_small_patch14_dinov2.lvd142m", 70),
    ("vit_small_patch16_dinov3.lvd1689m", 64),
    ("vit_base_patch32_siglip_256.v2_webli", 64),
    ("vit_base_patch32_clip_224.openai", 64),
]


@pytest.mark.skipif(timm is None, reason="timm is not installed")
@pytest.mark.parametrize(("name", "input_px"), TODAYS)
def test_percepts_are_timms_own_features(name: str, input_px: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # A file as it is published: of the size that the model was trained at.
    published = timm.create_model(name, pretrained=False, num_classes=0)
    with torch.no_grad():
        for parameter in published.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    weights = saved(tmp_path / "model.safetensors", published)
    model = timm.create_model(name, pretrained=False, num_classes=0, img_size=input_px).eval()
    filtered = sys.modules[type(model).__module__].checkpoint_filter_fn(published.state_dict(), model)
    model.load_state_dict(filtered)
    frames_NHWC, x_NCHW = frames_of(input_px, model.pretrained_cfg)
    with torch.inference_mode():
        tokens = model.forward_features(x_NCHW)
        expected = {"norm:mean": tokens[:, model.num_prefix_tokens :].mean(1), "pooled": model(x_NCHW)}
    if model.num_prefix_tokens:
        expected["norm:class"] = tokens[:, 0]
    for layer, percepts in expected.items():
        config = ConvnetConfig(name=f"timm/{name}", layer=layer, input_px=input_px, **weights)
        np.testing.assert_allclose(run(config, frames_NHWC), percepts, rtol=1e-3, atol=1e-4)
        assert percept_dim(config) == model.num_features
    assert identity(config)["version"] == f"timm {timm.__version__}"
