"""The engines that run a convnet: the fastest exact one on this machine, checked against plain float32 torch.

Every engine runs batches of one fixed shape; a short batch is filled up. With that, a frame's percept has the same
bits whatever lies beside it in the batch, on however many workers and in whichever shard (tested in
tests/stages/percepts/test_convnets.py).

| engine | where | arithmetic | batch | agrees with plain torch within |
|---|---|---|---|---|
| onnxruntime | CPU | float32, the graph of `onnx_graph` | 16 | 1e-4 of the largest value |
| torch-cpu | CPU, for networks that `onnx_graph` does not know | float32, channels-last | 16 | 1e-4 |
| torch-cuda | GPU | float16 autocast, channels-last | 256 | 2e-2 |

Shapes: B frames of a batch, H x W pixels, C channels, D percept dimension.
"""

import copy
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from pipeline.errors import RunError
from stages.percepts.onnx_graph import INPUT, OUTPUT, UnsupportedLayer, to_onnx

CPU_BATCH_FRAMES: Final = 16
CUDA_BATCH_FRAMES: Final = 256

Frames = npt.NDArray[np.uint8]
Percepts = npt.NDArray[np.float16]


class Backend(Protocol):
    """Runs batches of exactly `batch_frames` frames."""

    name: str
    batch_frames: int
    tolerance: float
    """Largest difference from plain torch, as a share of the largest absolute percept."""

    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        """percepts_BD of every batch, in order; may take a batch before it yields the one before."""
        ...


class OnnxCpu:
    """onnxruntime on `num_threads` cores. Raises UnsupportedLayer."""

    name = "onnxruntime"
    batch_frames = CPU_BATCH_FRAMES
    tolerance = 1e-4

    def __init__(self, network: nn.Module, input_px: int, in_channels: int, num_threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores that decode the next frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = to_onnx(network, batch_frames=self.batch_frames, input_px=input_px, in_channels=in_channels)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        for batch_BHWC in batches_BHWC:
            percepts_BD = self._session.run([OUTPUT], {INPUT: batch_BHWC})[0]
            with np.errstate(over="ignore"):
                yield percepts_BD.astype(np.float16)


class TorchCpu:
    """Plain torch on the CPU, for any network."""

    name = "torch-cpu"
    batch_frames = CPU_BATCH_FRAMES
    tolerance = 1e-4

    def __init__(self, network: nn.Module) -> None:
        self._network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        for batch_BHWC in batches_BHWC:
            # The permuted view of NHWC bytes is what torch calls channels-last: nothing is moved.
            x_BCHW = torch.from_numpy(batch_BHWC).permute(0, 3, 1, 2).float()
            yield self._network(x_BCHW).half().numpy()


class TorchCuda:
    """float16 autocast on one GPU; bytes go to the device from pinned memory while the batch before is computed."""

    name = "torch-cuda"
    batch_frames = CUDA_BATCH_FRAMES
    tolerance = 2e-2

    def __init__(self, network: nn.Module, input_px: int, in_channels: int) -> None:
        self._device = torch.device("cuda")
        self._network = copy.deepcopy(network).to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (self.batch_frames, input_px, input_px, in_channels)
        self._pinned = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._uploads = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        pending: tuple[torch.Tensor, torch.cuda.Event] | None = None
        for number, batch_BHWC in enumerate(batches_BHWC):
            launched = self._launch(self._pinned[number % 2], batch_BHWC)
            if pending is not None:
                yield _arrived(*pending)
            pending = launched
        if pending is not None:
            yield _arrived(*pending)

    def _launch(self, pinned_BHWC: torch.Tensor, batch_BHWC: Frames) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Queue upload, network and download of one batch; returns the pinned result and the event of its arrival."""
        pinned_BHWC.copy_(torch.from_numpy(batch_BHWC))
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            frames_BHWC = pinned_BHWC.to(self._device, non_blocking=True)
        compute.wait_stream(self._uploads)
        frames_BHWC.record_stream(compute)
        with torch.autocast("cuda", dtype=torch.float16):
            percepts_BD = self._network(frames_BHWC.permute(0, 3, 1, 2).float()).half()
        result = torch.empty(percepts_BD.shape, dtype=torch.float16, pin_memory=True)
        result.copy_(percepts_BD, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(compute)
        return result, event


def _arrived(result: torch.Tensor, event: torch.cuda.Event) -> Percepts:
    event.synchronize()
    return result.numpy()


def choose(network: nn.Module, input_px: int, in_channels: int, *, device: str, num_threads: int) -> Backend:
    """The fastest engine that can run `network` (x_BCHW float32 in 0..255 -> percepts_BD), checked.

    Raises:
        RunError: the engine's percepts differ from plain torch's by more than its tolerance.
    """
    backend: Backend
    if device == "cuda":
        backend = TorchCuda(network, input_px, in_channels)
    else:
        try:
            backend = OnnxCpu(network, input_px, in_channels, num_threads)
        except UnsupportedLayer:
            backend = TorchCpu(network)
    check(backend, network, input_px, in_channels)
    return backend


@torch.inference_mode()
def check(backend: Backend, network: nn.Module, input_px: int, in_channels: int) -> None:
    """Compare the engine with plain float32 torch on two fixed frames: noise, and a ramp.

    Raises:
        RunError: they differ by more than the engine's tolerance, float16 rounding (2^-10) added.
    """
    frames_BHWC = np.zeros((backend.batch_frames, input_px, input_px, in_channels), np.uint8)
    frames_BHWC[0] = np.random.default_rng(0).integers(0, 256, frames_BHWC.shape[1:], dtype=np.uint8)
    frames_BHWC[1] = np.linspace(0, 255, input_px, dtype=np.uint8)[:, None, None]
    (percepts_BD,) = backend.stream([frames_BHWC])
    expected_BD = network(torch.from_numpy(frames_BHWC[:2]).permute(0, 3, 1, 2).float()).numpy()
    largest = float(np.abs(expected_BD).max()) or 1.0
    difference = float(np.abs(percepts_BD[:2].astype(np.float32) - expected_BD).max()) / largest
    if not difference <= backend.tolerance + 2**-10:
        raise RunError(
            f"{backend.name} differs from plain torch by {difference:.2g} of the largest percept, more than "
            f"{backend.tolerance:g}: do not trust it here; update onnxruntime or torch"
        )
