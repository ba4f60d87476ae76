"""The engines that run a convnet: the fastest exact one on this machine, checked against plain float32 torch.

Every engine runs batches of one fixed shape; a short batch is filled up. With that, a frame's percept has the same
bits whatever lies beside it in the batch, on however many workers and in whichever shard (tested in
tests/stages/convnets/test_convnet.py).

| engine | where | arithmetic | batch | agrees with plain torch within |
|---|---|---|---|---|
| onnxruntime | CPU | float32, the graph of `onnx_graph` | 4 | 1e-4 of the largest value |
| torch-cpu | CPU, for networks that `onnx_graph` does not know | float32, channels-last | 16 | 1e-4 |
| torch-cuda | GPU | float16 autocast, channels-last | 256 | 2e-2 |

On CPUs every core computes a batch of its own: no core waits for another at the end of each layer, the bytes cannot
depend on the number of threads, and decoders that take a core for a moment hold up one batch and not all.

Shapes: B frames of a batch, H x W pixels, C channels, D percept dimension.
"""

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from pipeline.core.errors import RunError
from stages.convnets.onnx_graph import INPUT, OUTPUT, UnsupportedLayer, to_onnx

ONNX_BATCH_FRAMES: Final = 4
"""Small enough for a core's own cache; 16 take 2 to 6% longer (tests/RESULTS.md)."""
TORCH_CPU_BATCH_FRAMES: Final = 16
CUDA_BATCH_FRAMES: Final = 256

Frames = npt.NDArray[np.uint8]
Percepts = npt.NDArray[np.float16]


class Engine(Protocol):
    """Runs batches of exactly `batch_frames` frames."""

    name: str
    batch_frames: int
    tolerance: float
    """Largest difference from plain torch, as a share of the largest absolute percept."""
    busy_s: float
    """Seconds that it has computed since it was made: of the device, or of its cores on average."""

    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        """percepts_BD of every batch, in order; may take a batch before it yields the one before."""
        ...


class _OneBatchPerCore:
    """Streams batches through `compute`, on `num_threads` threads at once."""

    def __init__(self, compute: Callable[[Frames], Percepts], num_threads: int) -> None:
        self._compute = compute
        self._num_threads = num_threads
        self.busy_s = 0.0

    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        running: deque[Future[tuple[Percepts, float]]] = deque()
        # torch keeps its number of threads for each thread that calls it.
        with ThreadPoolExecutor(self._num_threads, "convnet", torch.set_num_threads, (1,)) as pool:
            for batch_BHWC in batches_BHWC:
                running.append(pool.submit(self._timed, batch_BHWC))
                # One more than there are threads: none idles while the caller writes what we yield.
                if len(running) > self._num_threads:
                    yield self._arrived(running.popleft())
            while running:
                yield self._arrived(running.popleft())

    def _timed(self, batch_BHWC: Frames) -> tuple[Percepts, float]:
        began = time.perf_counter()
        percepts_BD = self._compute(batch_BHWC)
        return percepts_BD, time.perf_counter() - began

    def _arrived(self, future: Future[tuple[Percepts, float]]) -> Percepts:
        percepts_BD, seconds = future.result()
        self.busy_s += seconds / self._num_threads
        return percepts_BD


class OnnxCpu(_OneBatchPerCore):
    """onnxruntime on `num_threads` cores. Raises UnsupportedLayer."""

    name = "onnxruntime"
    batch_frames = ONNX_BATCH_FRAMES
    tolerance = 1e-4

    def __init__(self, network: nn.Module, input_px: int, in_channels: int, num_threads: int) -> None:
        super().__init__(self._run, num_threads)
        options = onnxruntime.SessionOptions()
        # With one thread a session computes in the thread that calls it, and many may call it at once.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        model = to_onnx(network, batch_frames=self.batch_frames, input_px=input_px, in_channels=in_channels)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def _run(self, batch_BHWC: Frames) -> Percepts:
        percepts_BD: npt.NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: batch_BHWC})[0]
        with np.errstate(over="ignore"):
            return percepts_BD.astype(np.float16)


class TorchCpu(_OneBatchPerCore):
    """Plain torch on `num_threads` cores, for any network."""

    name = "torch-cpu"
    batch_frames = TORCH_CPU_BATCH_FRAMES
    tolerance = 1e-4

    def __init__(self, network: nn.Module, num_threads: int) -> None:
        super().__init__(self._run, num_threads)
        self._network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def _run(self, batch_BHWC: Frames) -> Percepts:
        # The permuted view of NHWC bytes is what torch calls channels-last: nothing is moved.
        x_BCHW = torch.from_numpy(batch_BHWC).permute(0, 3, 1, 2).float()
        percepts_BD: Percepts = self._network(x_BCHW).half().numpy()
        return percepts_BD


@dataclass(frozen=True)
class _Launched:
    """A batch on its way through the GPU."""

    result_BD: torch.Tensor
    began: torch.cuda.Event
    arrived: torch.cuda.Event


class TorchCuda:
    """float16 autocast on one GPU; bytes go to the device from pinned memory while the batch before is computed.

    cuDNN chooses its algorithms by rule and not by trial, so that the same GPU gives the same bytes in every run.
    """

    name = "torch-cuda"
    batch_frames = CUDA_BATCH_FRAMES
    tolerance = 2e-2

    def __init__(self, network: nn.Module, input_px: int, in_channels: int) -> None:
        self._device = torch.device("cuda")
        self._network = copy.deepcopy(network).to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (self.batch_frames, input_px, input_px, in_channels)
        # Two of each: a batch is filled in while the one before is under way.
        self._frames = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        self._uploads = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.busy_s = 0.0

    @torch.inference_mode()
    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        before: _Launched | None = None
        for number, batch_BHWC in enumerate(batches_BHWC):
            launched = self._launch(self._frames[number % 2], batch_BHWC)
            if before is not None:
                yield self._arrived(before)
            before = launched
        if before is not None:
            yield self._arrived(before)

    def _launch(self, pinned_BHWC: torch.Tensor, batch_BHWC: Frames) -> _Launched:
        """Queue upload, network and download of one batch. Its pinned memory is free: the batch before last, which
        used it, has arrived."""
        pinned_BHWC.copy_(torch.from_numpy(batch_BHWC))
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            frames_BHWC = pinned_BHWC.to(self._device, non_blocking=True)
        compute.wait_stream(self._uploads)
        frames_BHWC.record_stream(compute)
        began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        began.record(compute)
        with torch.autocast("cuda", dtype=torch.float16):
            percepts_BD = self._network(frames_BHWC.permute(0, 3, 1, 2).float()).half()
        # torch keeps pinned memory that was freed: this costs something once.
        result_BD = torch.empty(percepts_BD.shape, dtype=torch.float16, pin_memory=True)
        result_BD.copy_(percepts_BD, non_blocking=True)
        arrived = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        arrived.record(compute)
        return _Launched(result_BD, began, arrived)

    def _arrived(self, batch: _Launched) -> Percepts:
        batch.arrived.synchronize()
        self.busy_s += batch.began.elapsed_time(batch.arrived) / 1000
        return batch.result_BD.numpy().copy()


def choose_engine(network: nn.Module, input_px: int, in_channels: int, *, device: str, num_threads: int) -> Engine:
    """The fastest engine that can run `network` (x_BCHW float32 in 0..255 -> percepts_BD), checked.

    Raises:
        RunError: the engine's percepts differ from plain torch's by more than its tolerance.
    """
    engine: Engine
    if device == "cuda":
        engine = TorchCuda(network, input_px, in_channels)
    else:
        try:
            engine = OnnxCpu(network, input_px, in_channels, num_threads)
        except UnsupportedLayer:
            engine = TorchCpu(network, num_threads)
    check_engine(engine, network, input_px, in_channels)
    return engine


@torch.inference_mode()
def check_engine(engine: Engine, network: nn.Module, input_px: int, in_channels: int) -> None:
    """Compare the engine with plain float32 torch on two fixed frames: noise, and a ramp.

    Raises:
        RunError: they differ by more than the engine's tolerance, float16 rounding (2^-10) added.
    """
    frames_BHWC = np.zeros((engine.batch_frames, input_px, input_px, in_channels), np.uint8)
    frames_BHWC[0] = np.random.default_rng(0).integers(0, 256, frames_BHWC.shape[1:], dtype=np.uint8)
    frames_BHWC[1] = np.linspace(0, 255, input_px, dtype=np.uint8)[:, None, None]
    (percepts_BD,) = engine.stream([frames_BHWC])
    expected_BD = network(torch.from_numpy(frames_BHWC[:2]).permute(0, 3, 1, 2).float()).numpy()
    largest = float(np.abs(expected_BD).max()) or 1.0
    difference = float(np.abs(percepts_BD[:2].astype(np.float32) - expected_BD).max()) / largest
    if not difference <= engine.tolerance + 2**-10:
        raise RunError(
            f"{engine.name} differs from plain torch by {difference:.2g} of the largest percept, more than "
            f"{engine.tolerance:g}: do not trust it here; update onnxruntime or torch"
        )
