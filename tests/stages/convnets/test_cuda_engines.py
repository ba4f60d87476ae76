"""Engines of a GPU: half weights and compilation against plain torch on CPU, and their streams on a pretended GPU.

On a machine with a GPU the same engines run on it (`test_on_a_gpu`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import RunError
from stages.convnets import cuda_engines, engines
from stages.convnets.convnet import Convnet, ConvnetConfig, build, load_network
from stages.convnets.cuda_engines import CODE_VARIABLE, CudaEngine, Forward, HalfNetwork, compiled_forward
from stages.convnets.engines import Engine, Frames, Percepts
from stages.convnets.layers import Normalize, grid_pooling

CPU = torch.device("cpu")
LITE = ConvnetConfig(layer="blocks.2", grid=3, input_px=32)


@pytest.fixture(autouse=True)
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv(CODE_VARIABLE, str(tmp_path / "code"))


def noise(num_frames: int, size_px: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (num_frames, size_px, size_px, 3), dtype=np.uint8)


class OnCpu:
    """Runs what a GPU's engine would run, one batch after the other."""

    batch_frames, tolerance, busy_s = 4, CudaEngine.tolerance, 0.0

    def __init__(self, name: str, forward: Forward) -> None:
        self.name, self._forward = name, forward

    def new_batch(self, shape: tuple[int, ...]) -> Frames:
        return np.empty(shape, np.uint8)

    @torch.inference_mode()
    def stream(self, batches_BHWC: Any) -> Iterator[Percepts]:
        for batch_BHWC in batches_BHWC:
            yield self._forward(torch.from_numpy(batch_BHWC)).numpy()


def toy_network() -> nn.Module:
    """Normalised pixels, one convolution, pooled to 2 x 2."""
    torch.manual_seed(0)
    to_input = Normalize((123.7, 116.8, 103.9), (1 / 58.4, 1 / 57.1, 1 / 57.4))
    return nn.Sequential(to_input, nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), grid_pooling(8, 8, 2)).eval()


@pytest.mark.parametrize("config", [LITE, ConvnetConfig(name="pixels", layer="gray", grid=4, input_px=16)])
def test_half_weights_agree_with_plain_torch(config: ConvnetConfig) -> None:
    network, dim = load_network(config)
    engine = OnCpu("half", HalfNetwork(network, CPU))
    engines.check_engine(engine, network, config.input_px, 3)
    (percepts_BD,) = engine.stream([noise(4, config.input_px)])
    assert percepts_BD.dtype == np.float16
    assert percepts_BD.shape == (4, dim)


def test_pixels_are_normalised_in_float32() -> None:
    """float16 would round the mean 123.675 to 123.6875, and small differences to it by far more."""
    normalize = Normalize((123.675, 116.28, 103.53), (1.0, 1.0, 1.0))
    frames_BHWC = torch.from_numpy(noise(2, 8))
    expected_BCHW = normalize(frames_BHWC.permute(0, 3, 1, 2).double())
    found_BCHW = HalfNetwork(normalize, CPU)(frames_BHWC)
    assert found_BCHW.dtype == torch.float16
    torch.testing.assert_close(found_BCHW.double(), expected_BCHW, rtol=2**-11, atol=0)


def test_the_network_that_was_given_stays_as_it_is() -> None:
    network = toy_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    HalfNetwork(network, CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert isinstance(network.get_submodule("0"), Normalize)


def test_compiled_agrees_and_a_second_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    """Through torch's own compiler, which needs one for C++ here.

    Both processes are forks of one that has imported it. It compiles without vector instructions and headers of its
    own, which cost 7 s of CPU and have no part in what a GPU runs.
    """
    script = f"""
import os, torch, torch._inductor.compile_fx
from pathlib import Path
from torch._dynamo.utils import counters
from stages.convnets import engines
from stages.convnets.cuda_engines import compiled_forward
from tests.stages.convnets.test_cuda_engines import CPU, OnCpu, noise, toy_network
torch.set_num_threads(1)
for _ in range(2):
    if os.fork():
        assert os.wait()[1] == 0
        continue
    network = toy_network()
    forward = compiled_forward(network, CPU, code=Path({str(tmp_path / "shared")!r}))
    engine = OnCpu("compiled", forward)
    engines.check_engine(engine, network, 8, 3)
    (percepts_BD,) = engine.stream([noise(4, 8)])
    graphs = counters["inductor"]
    print(graphs["fxgraph_cache_miss"], graphs["fxgraph_cache_hit"], percepts_BD.tobytes().hex())
    break
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"TORCHINDUCTOR_VEC_ISA_OK": "0", "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0"}
    del environment[CODE_VARIABLE]
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=240
    )
    runs = [line.split() for line in done.stdout.splitlines()]
    assert [run[:2] for run in runs] == [["1", "0"], ["0", "1"]]
    assert runs[0][2] == runs[1][2]
    assert any((tmp_path / "shared").iterdir())


def agrees_with(network: nn.Module) -> Any:
    return lambda engine: engines.check_engine(engine, network, 8, 3)


def test_an_engine_that_cannot_be_compiled_or_does_not_agree_is_replaced_and_its_successor_says_so() -> None:
    network, wrong = toy_network(), toy_network()
    with torch.no_grad():
        next(wrong.parameters()).mul_(1.5)

    def no_compiler(network: nn.Module) -> Any:
        raise RuntimeError("Failed to find C compiler.\nSet CC.")

    def engine(first: Any) -> Engine:
        forwards = {"fast": first, "plain": lambda: HalfNetwork(network, CPU)}
        return engines.first_that_agrees(forwards, OnCpu, agrees_with(network))

    assert engine(lambda: HalfNetwork(network, CPU)).name == "fast"
    broken = engine(lambda: compiled_forward(network, CPU, compile_network=no_compiler))
    assert broken.name == "plain, not fast: Failed to find C compiler. Set CC."
    assert engine(lambda: HalfNetwork(wrong, CPU)).name.startswith("plain, not fast: fast differs from plain torch by")
    with pytest.raises(RunError, match="plain differs from plain torch"):
        engines.first_that_agrees({"plain": lambda: HalfNetwork(wrong, CPU)}, OnCpu, agrees_with(network))


def test_code_is_kept_only_where_nobody_else_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_engines.use_code_of(tmp_path / "other") == tmp_path / "code", "what the user has set comes first"

    def chosen(directory: Path) -> Path:
        monkeypatch.delenv(CODE_VARIABLE)
        found = cuda_engines.use_code_of(directory)
        assert os.environ[CODE_VARIABLE] == str(found)
        return found

    mine = tmp_path / "mine"
    assert chosen(mine) == mine
    assert mine.stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o702):
        mine.chmod(mode)
        private = chosen(mine)
        assert private != mine
        assert private.stat().st_mode & 0o777 == 0o700
        private.rmdir()
    (tmp_path / "link").symlink_to(tmp_path)
    link = chosen(tmp_path / "link")
    assert link != tmp_path / "link"
    link.rmdir()


class PretendedGpu:
    """Stands in for torch.cuda: streams do what they are asked at once."""

    def __init__(self) -> None:
        self.under_way = self.most_under_way = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = self

        class Stream:
            def __init__(self, *device: Any) -> None: ...

            def wait_stream(self, other: Any) -> None: ...

        class Event:
            def __init__(self, *, enable_timing: bool) -> None: ...

            def record(self, stream: Any) -> None: ...

            def elapsed_time(self, other: Any) -> float:
                return 500.0

            def synchronize(self) -> None:
                gpu.under_way -= 1

        def pageable(*shape: Any, pin_memory: bool, dtype: torch.dtype) -> Tensor:
            assert pin_memory
            return torch.zeros(*shape, dtype=dtype)

        monkeypatch.setattr(cuda_engines.torch, "device", lambda name: CPU)
        monkeypatch.setattr(cuda_engines.torch.cuda, "Stream", Stream)
        monkeypatch.setattr(cuda_engines.torch.cuda, "Event", Event)
        monkeypatch.setattr(cuda_engines.torch.cuda, "stream", nullcontext)
        monkeypatch.setattr(cuda_engines.torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(cuda_engines.torch, "empty", pageable)
        monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: None)


def test_batches_stream_in_order_with_a_bounded_number_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = PretendedGpu()
    gpu.install(monkeypatch)

    def forward(frames_BHWC: Tensor) -> Tensor:
        gpu.under_way += 1
        gpu.most_under_way = max(gpu.most_under_way, gpu.under_way)
        return frames_BHWC.flatten(1)[:, :2].half()

    engine = CudaEngine("pretended", forward)
    monkeypatch.setattr(engine, "batch_frames", 3)
    convnet = Convnet(ConvnetConfig(input_px=8), 2, engine)
    frames_NHWC = noise(20, 8)
    percepts_ND = convnet(frames_NHWC)
    assert percepts_ND.tobytes() == frames_NHWC.reshape(20, -1)[:, :2].astype(np.float16).tobytes()
    assert gpu.most_under_way == cuda_engines.BATCHES_AHEAD + 1
    assert gpu.under_way == 0
    assert engine.busy_s == 7 * 0.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu() -> None:
    """Both engines agree with plain torch, and a frame's bits depend neither on its batch nor on the process."""
    convnet = build(LITE, device="cuda")
    assert convnet.engine.name == "torch-compiled"
    frames = noise(300, LITE.input_px)
    whole = convnet(frames)
    order = np.random.default_rng(1).permutation(len(frames))
    assert convnet(frames[order])[np.argsort(order)].tobytes() == whole.tobytes()
    assert np.concatenate([convnet(part) for part in np.split(frames, [5, 6, 20])]).tobytes() == whole.tobytes()
    network, _ = load_network(LITE)
    plain = CudaEngine("torch-cuda", cuda_engines.plain_forward(network, torch.device("cuda")))
    engines.check_engine(plain, network, LITE.input_px, 3)
