"""Writes an inference network of plain layers as an ONNX graph, for onnxruntime.

`to_onnx` traces the module with torch.fx and knows exactly the layers in `_LAYERS` and addition, which are those of the
networks of this package: it takes 0.03 s, where torch's exporter takes 2 to 10 s for the same graph. Any other network
goes through torch's exporter (torch.onnx, which needs onnxscript: the extra `zoo`); without it, it runs in torch.

Shapes: B frames (fixed: a graph is for one batch size), C channels, H x W pixels, D percept dimension.
"""

import contextlib
import copy
import importlib.util
import io
import operator
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from stages.convnets.layers import AverageGrid, Normalize, Opaque, ReverseChannels

OPSET: Final = 17
IR_VERSION: Final = 9
INPUT: Final = "frames_BHWC"
OUTPUT: Final = "percepts_BD"


class UnsupportedLayer(Exception):
    """The network holds a layer or an operation that `to_onnx` does not know; the message names it."""


class _Graph:
    """Nodes and weights written so far; values go by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, value: npt.NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def tensor(self, value: torch.Tensor) -> str:
        return self.constant(value.detach().cpu().contiguous().numpy())

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        output = f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output


def _pair(value: Any) -> list[int]:
    return [int(part) for part in value] if isinstance(value, tuple) else [int(value)] * 2


def _conv(graph: _Graph, layer: nn.Conv2d, x: str) -> str:
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise UnsupportedLayer(f"Conv2d with padding {layer.padding!r}, {layer.padding_mode}")
    bias = [] if layer.bias is None else [graph.tensor(layer.bias)]
    return graph.add(
        "Conv",
        x,
        graph.tensor(layer.weight),
        *bias,
        kernel_shape=_pair(layer.kernel_size),
        strides=_pair(layer.stride),
        dilations=_pair(layer.dilation),
        pads=_pair(layer.padding) * 2,
        group=layer.groups,
    )


def _max_pool(graph: _Graph, layer: nn.MaxPool2d, x: str) -> str:
    if layer.ceil_mode or layer.return_indices or _pair(layer.dilation) != [1, 1]:
        raise UnsupportedLayer("MaxPool2d with ceil_mode, indices or dilation")
    kernel, strides, pads = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding) * 2
    return graph.add("MaxPool", x, kernel_shape=kernel, strides=strides, pads=pads)


def _average_pool(graph: _Graph, layer: nn.AvgPool2d, x: str) -> str:
    if layer.ceil_mode or _pair(layer.padding) != [0, 0] or layer.divisor_override is not None:
        raise UnsupportedLayer("AvgPool2d with ceil_mode, padding or divisor_override")
    return graph.add("AveragePool", x, kernel_shape=_pair(layer.kernel_size), strides=_pair(layer.stride))


def _zero_pad(graph: _Graph, layer: nn.ZeroPad2d, x: str) -> str:
    left, right, top, bottom = (int(part) for part in layer.padding)
    return graph.add("Pad", x, graph.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)))


def _linear(graph: _Graph, layer: nn.Linear, x: str) -> str:
    bias = [] if layer.bias is None else [graph.tensor(layer.bias)]
    return graph.add("Gemm", x, graph.tensor(layer.weight), *bias, transB=1)


def _relu6(graph: _Graph, layer: nn.ReLU6, x: str) -> str:
    return graph.add("Clip", x, graph.constant(np.array(0, np.float32)), graph.constant(np.array(6, np.float32)))


def _flatten(graph: _Graph, layer: nn.Flatten, x: str) -> str:
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise UnsupportedLayer("Flatten of some dimensions only")
    return graph.add("Flatten", x, axis=1)


def _normalize(graph: _Graph, layer: Normalize, x: str) -> str:
    return graph.add("Mul", graph.add("Sub", x, graph.tensor(layer.mean)), graph.tensor(layer.scale))


def _reverse_channels(graph: _Graph, layer: ReverseChannels, x: str) -> str:
    return graph.add("Gather", x, graph.constant(np.array([2, 1, 0], np.int64)), axis=1)


def _average_grid(graph: _Graph, layer: AverageGrid, x: str) -> str:
    return graph.add("MatMul", graph.add("MatMul", graph.tensor(layer.rows), x), graph.tensor(layer.columns))


_LAYERS: Final[dict[type[nn.Module], Callable[[_Graph, Any, str], str]]] = {
    nn.Conv2d: _conv,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.ZeroPad2d: _zero_pad,
    nn.Linear: _linear,
    nn.ReLU6: _relu6,
    nn.ReLU: lambda graph, layer, x: graph.add("Relu", x),
    nn.Flatten: _flatten,
    nn.Identity: lambda graph, layer, x: x,
    nn.Dropout: lambda graph, layer, x: x,
    Normalize: _normalize,
    ReverseChannels: _reverse_channels,
    AverageGrid: _average_grid,
}


class _Tracer(fx.Tracer):
    """Does not look inside the layers that we translate."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in _LAYERS or isinstance(m, Opaque) or super().is_leaf_module(m, module_qualified_name)


def _translate(graph: _Graph, network: nn.Module, x: str) -> str:
    """Appends the network's operations to `graph`, reading `x`; returns the name of its output."""
    values: dict[fx.Node, str] = {}
    for node in _Tracer().trace(network).nodes:
        inputs = [values[argument] for argument in node.args if isinstance(argument, fx.Node)]
        if node.op == "placeholder":
            values[node] = x
        elif node.op == "output":
            return inputs[0]
        elif node.op == "call_module" and type(layer := network.get_submodule(str(node.target))) in _LAYERS:
            values[node] = _LAYERS[type(layer)](graph, layer, *inputs)
        elif node.op == "call_function" and node.target in (operator.add, torch.add) and len(inputs) == 2:
            values[node] = graph.add("Add", *inputs)
        else:
            raise UnsupportedLayer(f"{node.op} {node.target} ({node.name})")
    raise AssertionError("a traced graph ends with its output")


def to_onnx(network: nn.Module, *, batch_frames: int, input_px: int, in_channels: int = 3) -> bytes:
    """Returns a serialised ONNX model: frames_BHWC uint8 (B, input_px, input_px, in_channels) -> percepts_BD float32.

    `network` maps x_BCHW float32 in 0..255 to percepts_BD and is in evaluation mode.

    Raises:
        UnsupportedLayer: it holds a layer that is not known here, and torch's exporter is not installed or fails.
    """
    assert not network.training
    shape = (batch_frames, input_px, input_px, in_channels)
    try:
        return _write_known_layers(network, shape)
    except UnsupportedLayer as error:
        return _export_with_torch(network, shape, error)


def _write_known_layers(network: nn.Module, shape: tuple[int, ...]) -> bytes:
    graph = _Graph()
    as_float = graph.add("Cast", INPUT, to=TensorProto.FLOAT)
    try:
        output = _translate(graph, network, graph.add("Transpose", as_float, perm=[0, 3, 1, 2]))
    except (fx.proxy.TraceError, TypeError) as error:
        raise UnsupportedLayer(f"{type(network).__name__} cannot be traced: {error}") from error
    graph.nodes.append(helper.make_node("Identity", [output], [OUTPUT]))
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, list(shape))]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)]
    proto = helper.make_graph(graph.nodes, "percepts", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", OPSET)]
    serialised: bytes = helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()
    return serialised


class _OnBytes(nn.Module):
    """A network with the conversion from bytes in front: frames_BHWC uint8 -> percepts_BD."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames_BHWC: torch.Tensor) -> torch.Tensor:
        percepts_BD: torch.Tensor = self.network(frames_BHWC.permute(0, 3, 1, 2).float())
        return percepts_BD


def _export_with_torch(network: nn.Module, shape: tuple[int, ...], refusal: UnsupportedLayer) -> bytes:
    """Returns the network as torch.onnx writes it; takes 2 to 10 s, where `_write_known_layers` takes 0.03 s."""
    if importlib.util.find_spec("onnxscript") is None:
        raise refusal
    exported = copy.deepcopy(network)
    for module in exported.modules():
        if isinstance(module, Opaque):
            module.is_exporting = True
    frames_BHWC = torch.zeros(shape, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _OnBytes(exported).eval(),
                (frames_BHWC,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedLayer(f"{refusal}; torch.onnx: {str(error).splitlines()[0]}") from error
    assert program is not None
    serialised: bytes = program.model_proto.SerializeToString()
    return serialised
