"""The engines that run a convnet: the fastest exact one on this machine, checked against plain float32 torch.

Every engine runs batches of one fixed shape; a short batch is filled up. With that, a frame's percept has the same
bits whatever lies beside it in the batch, on however many workers and in whichever shard (tested in
tests/stages/convnets/test_convnet.py).

| engine | where | arithmetic | batch | agrees with plain torch within |
|---|---|---|---|---|
| onnxruntime | CPU | float32, the graph of `onnx_graph` | 4 | 1e-4 of the largest value |
| torch-cpu | CPU, for networks that `onnx_graph` does not know | float32, channels-last | 16 | 1e-4 |
| torch-compiled | GPU (`cuda_engines`) | float16 weights, channels-last, torch.compile | 256 | 2e-2 |
| torch-cuda | GPU, where the compiled one fails or does not agree | float16 autocast, channels-last | 256 | 2e-2 |

On CPUs every core computes a batch of its own: no core waits for another at the end of each layer, the bytes cannot
depend on the number of threads, and decoders that take a core for a moment hold up one batch and not all.

Shapes: B frames of a batch, H x W pixels, C channels, D percept dimension.
"""

import copy
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

# The telemetry of onnxruntime's makers begins when it is imported, and leaves a file among the temporary ones.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from pipeline.core.errors import RunError
from stages.convnets.cuda_engines import CudaEngine, Forward, Frames, Percepts, compiled_forward, plain_forward
from stages.convnets.onnx_graph import INPUT, OUTPUT, UnsupportedLayer, to_onnx

__all__ = ["Engine", "Frames", "OnnxCpu", "Percepts", "TorchCpu", "check_engine", "choose_engine", "first_that_agrees"]

ONNX_BATCH_FRAMES: Final = 4
"""Small enough for a core's own cache; 16 take 2 to 6% longer (tests/RESULTS.md)."""
TORCH_CPU_BATCH_FRAMES: Final = 16


class Engine(Protocol):
    """Runs batches of exactly `batch_frames` frames."""

    name: str
    batch_frames: int
    tolerance: float
    """Largest difference from plain torch, as a share of the largest absolute percept."""
    busy_s: float
    """Seconds that it has computed since it was made: of the device, or of its cores on average."""

    def new_batch(self, shape: tuple[int, ...]) -> Frames:
        """Returns memory for a batch, from which the engine reads fastest."""
        ...

    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        """Yields percepts_BD of every batch, in order; may take a batch before it yields the one before."""
        ...


class _OneBatchPerCore:
    """Streams batches through `compute`, on `num_threads` threads at once."""

    def __init__(self, compute: Callable[[Frames], Percepts], num_threads: int) -> None:
        self._compute = compute
        self._num_threads = num_threads
        self.busy_s = 0.0

    def new_batch(self, shape: tuple[int, ...]) -> Frames:
        return np.empty(shape, np.uint8)

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


def choose_engine(
    network: nn.Module,
    input_px: int,
    in_channels: int,
    *,
    device: str,
    num_threads: int,
    compiled_code: Path | None = None,
) -> Engine:
    """Returns the fastest engine that can run `network` (x_BCHW float32 in 0..255 -> percepts_BD), checked.

    `compiled_code`: directory of this node that keeps compiled code, see `cuda_engines.use_code_of`.

    Raises:
        RunError: the engine's percepts differ from plain torch's by more than its tolerance.
    """

    def agrees(engine: Engine) -> None:
        check_engine(engine, network, input_px, in_channels)

    if device == "cuda":
        gpu = torch.device("cuda")
        return first_that_agrees(
            {
                "torch-compiled": lambda: compiled_forward(network, gpu, code=compiled_code),
                "torch-cuda": lambda: plain_forward(network, gpu),
            },
            CudaEngine,
            agrees,
        )
    engine: Engine
    try:
        engine = OnnxCpu(network, input_px, in_channels, num_threads)
    except UnsupportedLayer:
        engine = TorchCpu(network, num_threads)
    agrees(engine)
    return engine


def first_that_agrees(
    forwards: Mapping[str, Callable[[], Forward]],
    engine_of: Callable[[str, Forward], Engine],
    agrees: Callable[[Engine], None],
) -> Engine:
    """Builds the first engine of `forwards` (by name, fastest first) that runs here and agrees with plain torch.

    The name of an engine that stands in for a faster one says why; it goes into the report of the extraction.

    Raises:
        Exception: what the last one raises, RunError where it does not agree.
    """
    *faster, (last, plain) = forwards.items()
    reasons = ""
    for name, build in faster:
        try:
            engine = engine_of(name, build())
            agrees(engine)
            return engine
        except Exception as error:  # noqa: BLE001  # a compiler may fail in any way: the next engine needs none
            reasons += f", not {name}: {' '.join(str(error).split())[:200]}"
    engine = engine_of(last + reasons, plain())
    agrees(engine)
    return engine


@torch.inference_mode()
def check_engine(engine: Engine, network: nn.Module, input_px: int, in_channels: int) -> None:
    """Compares the engine with plain float32 torch on two fixed frames: noise, and a ramp.

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
