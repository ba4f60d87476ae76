"""VGG-16 against a NumPy transcription on made weights, and its published parameter count."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.core.errors import ConfigError
from stages.convnets import engines, vgg16
from stages.convnets.config import ConvnetConfig
from stages.convnets.convnet import build, load_network, percept_dim
from stages.convnets.registry import find_architecture

Array = npt.NDArray[np.float64]


def convolve3x3(x_CHW: Array, weight_OCKK: Array, bias_O: Array) -> Array:
    """Cross-correlation with zeros around, written out over the nine taps."""
    padded = np.pad(x_CHW, ((0, 0), (1, 1), (1, 1)))
    _, height, width = x_CHW.shape
    y = np.zeros((len(bias_O), height, width))
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + height, column : column + width]
            y += np.einsum("oc,chw->ohw", weight_OCKK[:, :, row, column], window)
    return y + bias_O[:, None, None]


def transcription(x_CHW: Array, state: dict[str, Array], num_convs: tuple[int, ...], layer: str) -> Array:
    """Table 1, column D, of Simonyan & Zisserman: 3x3 convolutions with ReLU, 2x2 maxima, fully connected layers."""
    position = 0
    for repeats in num_convs:
        for _ in range(repeats):
            weight, bias = state[f"features.{position}.weight"], state[f"features.{position}.bias"]
            x_CHW = np.maximum(convolve3x3(x_CHW, weight, bias), 0)
            position += 2
        channels, height, width = x_CHW.shape
        x_CHW = x_CHW[:, : height // 2 * 2, : width // 2 * 2]
        x_CHW = x_CHW.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4))
        position += 1
    if layer == "pool5":
        return x_CHW
    y = np.maximum(state["classifier.0.weight"] @ x_CHW.ravel() + state["classifier.0.bias"], 0)
    if layer == "fc7":
        y = np.maximum(state["classifier.3.weight"] @ y + state["classifier.3.bias"], 0)
    return y


@pytest.mark.parametrize("layer", ["pool5", "fc6", "fc7"])
@pytest.mark.parametrize("name", ["vgg16", "vgg16_torchvision", "vgg16_flow"])
def test_equals_the_numpy_transcription(layer: str, name: str) -> None:
    torch.manual_seed(0)
    stages, size_px = ((5, 2), (6, 2), (7, 3)), 24
    architecture, channels = find_architecture(name, None).architecture, 4 if name == "vgg16_flow" else 3
    prepare = (
        architecture.flow_network("pool5", 32, 4)[0]  # type: ignore[index]
        if channels == 4
        else architecture.prepare()  # type: ignore[attr-defined]
    )
    layers = vgg16.vgg16_layers(layer, stages, fc_units=11, cells=3, in_channels=channels)
    network = nn.Sequential(prepare, layers, nn.Flatten()).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False).normal_(std=0.2)
    state = {key: value.double().numpy() for key, value in layers.state_dict().items()}
    frame_HWC = np.random.default_rng(0).integers(0, 256, (size_px, size_px, channels), dtype=np.uint8)
    if name == "vgg16":
        prepared = frame_HWC[..., ::-1].astype(np.float64) - (103.939, 116.779, 123.68)
    elif name == "vgg16_flow":
        prepared = frame_HWC - 128.0
    else:
        prepared = (frame_HWC / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    expected = transcription(prepared.transpose(2, 0, 1), state, (2, 2, 3), layer).ravel()
    with torch.inference_mode():
        eager = network(torch.from_numpy(frame_HWC).permute(2, 0, 1)[None].float()).numpy()[0]
    np.testing.assert_allclose(eager, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    engine = engines.choose_engine(network, size_px, channels, device="cpu", num_threads=1)
    assert engine.name == "onnxruntime"
    assert np.abs(expected).max() > 0


def test_parameter_count_is_the_published_one() -> None:
    """138 million (their Table 2): 138,357,544 with the 1000-way layer of 4,097,000."""
    with torch.device("meta"):
        layers = vgg16.vgg16_layers("fc7", vgg16.STAGES, vgg16.FC_UNITS, vgg16.POOL5_CELLS)
    assert sum(parameter.numel() for parameter in layers.parameters()) == 138_357_544 - 4_097_000


def made(**config: object) -> ConvnetConfig:
    return ConvnetConfig(**{"name": "vgg16", "weights": "made", "weights_sha256": "0" * 64, **config})  # type: ignore[arg-type]


def test_dimensions() -> None:
    assert percept_dim(made(layer="fc6")) == percept_dim(made(layer="fc7")) == 4096
    assert percept_dim(made(layer="pool5", grid=7)) == 25088
    assert percept_dim(made(layer="pool5", input_px=64)) == 512
    with pytest.raises(ConfigError, match="set input_px=224"):
        percept_dim(made(layer="fc6", input_px=128))
    with pytest.raises(ConfigError, match="is a vector"):
        percept_dim(made(layer="fc6", grid=2))
    with pytest.raises(ConfigError, match="has no weights of its own; give weights"):
        load_network(ConvnetConfig(name="vgg16", layer="fc6"))


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_by_uri_and_digest(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    layers = vgg16.vgg16_layers("pool5", vgg16.STAGES, vgg16.FC_UNITS, vgg16.POOL5_CELLS)
    state = {key: value.detach() for key, value in layers.state_dict().items()}
    # Keys behind the cut are there in a real checkpoint.
    state["classifier.0.weight"] = torch.zeros(1)
    file = tmp_path / f"vgg16.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    config = made(layer="pool5", input_px=32, weights=str(file), weights_sha256=digest)
    convnet = build(config)
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert convnet(frames).shape == (2, 512)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"features.0.weight": torch.zeros(2, 3, 3, 3)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match=r"have \(2, 3, 3, 3\) under 'features.0.weight', not \(64, 3, 3, 3\)"):
        build(made(layer="pool5", input_px=32, weights=str(file), weights_sha256=digest))
