"""The engines for one GPU: plain float16 autocast, and half weights compiled by torch.

Both stream batches the same way: the caller fills pinned memory, a side stream uploads bytes while the batch before is
computed, pixels become normalised values on the GPU, and percepts return through pinned memory.

`compiled_or_plain` chooses: the compiled engine where it agrees with plain torch, the plain one elsewhere. What it
compiles lies in a directory of this node, so that the next worker loads it instead.

cuDNN chooses its algorithms by rule and not by trial, and the compiler its reductions likewise, so that the same GPU
gives the same bytes in every run.

Shapes: B frames of a batch, H x W pixels, C channels, D percept dimension.
"""

import copy
import os
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from stages.convnets.layers import Normalize

CUDA_BATCH_FRAMES: Final = 256
BATCHES_AHEAD: Final = 4
"""Batches that are under way on the GPU while the caller fills the next one."""
CODE_VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"

Frames = npt.NDArray[np.uint8]
Percepts = npt.NDArray[np.float16]
Forward = Callable[[Tensor], Tensor]
"""frames_BHWC uint8 -> percepts_BD float16, on one device."""
Compile = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class _Launched:
    """A batch on its way through the GPU."""

    batch_BHWC: Frames
    """Its memory, which the upload reads."""
    result_BD: Tensor
    began: torch.cuda.Event
    arrived: torch.cuda.Event


class CudaEngine:
    """Streams batches of fixed shape through a network on one GPU."""

    batch_frames = CUDA_BATCH_FRAMES
    tolerance = 2e-2

    def __init__(self, name: str, forward: Forward) -> None:
        self.name = name
        self._forward = forward
        self._device = torch.device("cuda")
        self._uploads = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self.busy_s = 0.0

    def new_batch(self, shape: tuple[int, ...]) -> Frames:
        """Returns pinned memory, from which an upload needs no further copy.

        torch keeps freed memory for the next call.
        """
        return cast(Frames, torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy())

    @torch.inference_mode()
    def stream(self, batches_BHWC: Iterable[Frames]) -> Iterator[Percepts]:
        under_way: deque[_Launched] = deque()
        for batch_BHWC in batches_BHWC:
            under_way.append(self._launch(batch_BHWC))
            if len(under_way) > BATCHES_AHEAD:
                yield self._arrived(under_way.popleft())
        while under_way:
            yield self._arrived(under_way.popleft())

    def _launch(self, batch_BHWC: Frames) -> _Launched:
        """Queues upload, network and download of one batch."""
        host_BHWC = torch.from_numpy(batch_BHWC)
        if not host_BHWC.is_pinned():
            batch_BHWC = self.new_batch(batch_BHWC.shape)
            host_BHWC = torch.from_numpy(batch_BHWC).copy_(host_BHWC)
        compute = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._uploads):
            frames_BHWC = host_BHWC.to(self._device, non_blocking=True)
        compute.wait_stream(self._uploads)
        frames_BHWC.record_stream(compute)
        began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        began.record(compute)
        percepts_BD = self._forward(frames_BHWC)
        result_BD = torch.empty(percepts_BD.shape, dtype=torch.float16, pin_memory=True)
        result_BD.copy_(percepts_BD, non_blocking=True)
        arrived = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        arrived.record(compute)
        return _Launched(batch_BHWC, result_BD, began, arrived)

    def _arrived(self, batch: _Launched) -> Percepts:
        batch.arrived.synchronize()
        self.busy_s += batch.began.elapsed_time(batch.arrived) / 1000
        return batch.result_BD.numpy().copy()


def plain_forward(network: nn.Module, device: torch.device) -> Forward:
    """Runs the network as it is, in float16 autocast and channels-last."""
    here = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(frames_BHWC: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.float16):
            percepts_BD: Tensor = here(frames_BHWC.permute(0, 3, 1, 2).float()).half()
        return percepts_BD

    return forward


class _NormalizeInFloat32(nn.Module):
    """x_BCHW float16 in 0..255, which holds every byte exactly -> normalised float16, rounded once."""

    def __init__(self, normalize: Normalize) -> None:
        super().__init__()
        self.mean = nn.Buffer(normalize.mean.float())
        self.scale = nn.Buffer(normalize.scale.float())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return ((x_BCHW.float() - self.mean) * self.scale).half()


class HalfNetwork(nn.Module):
    """frames_BHWC uint8 -> percepts_BD float16, with half weights in channels-last."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        # One more level, so that every layer has a parent to be replaced in.
        half = nn.Sequential(copy.deepcopy(network)).half()
        for name, module in list(network.named_modules(prefix="0")):
            if isinstance(module, Normalize):
                half.set_submodule(name, _NormalizeInFloat32(module))
        self.network = half.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, frames_BHWC: Tensor) -> Tensor:
        # The permuted view of NHWC bytes is what torch calls channels-last: nothing is moved.
        percepts_BD: Tensor = self.network(frames_BHWC.permute(0, 3, 1, 2).half())
        return percepts_BD


def compile_fixed(network: nn.Module) -> Any:
    """Compiles for one shape.

    Kernels that sum are chosen by rule where torch can do so: the same bytes on each node.
    """
    from torch._inductor import config as inductor

    # In this process: the compiler's own pool is a process a core, each with a torch of its own in memory.
    options: dict[str, Any] = {"compile_threads": 1}
    if hasattr(inductor, "deterministic"):
        options["deterministic"] = True
    return torch.compile(network, dynamic=False, options=options)


def compiled_forward(
    network: nn.Module, device: torch.device, *, code: Path | None = None, compile_network: Compile = compile_fixed
) -> Forward:
    """Runs half weights, compiled at the first call. `code`: directory of compiled code, see `use_code_of`."""
    use_code_of(code)
    forward: Forward = compile_network(HalfNetwork(network, device))
    return forward


def use_code_of(directory: Path | None) -> Path:
    """Sets the directory where torch's compiler keeps its code, from now on in this process.

    It is the one that the user has set in TORCHINDUCTOR_CACHE_DIR, else `directory`, else one of this user in the
    temporary directory.

    What lies there is run. So it must belong to this user and be closed to others; where it is not, a new private one
    serves this process alone.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    chosen = os.environ.get(CODE_VARIABLE)
    # torch names its default there itself, a directory that any user of this machine may have made.
    if chosen in (None, default_cache_dir()):
        wanted = directory or Path(tempfile.gettempdir()) / f"percepts-compiled-{os.getuid()}"
        chosen = str(wanted) if _is_private(wanted) else tempfile.mkdtemp(prefix="percepts-compiled-")
        os.environ[CODE_VARIABLE] = chosen
    assert chosen is not None
    return Path(chosen)


def _is_private(directory: Path) -> bool:
    """Makes the directory where it is missing; returns whether no other user can write in it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = directory.lstat()
    except OSError:
        return False
    is_open = bool(state.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not is_open and os.access(directory, os.W_OK)
