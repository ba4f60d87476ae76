"""A run without Ray: on a machine with few libraries, and with the bytes of a run on Ray."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import UsageError
from pipeline.engine.store import Store
from pipeline.run import main
from tests.conftest import ROOT

MISSING = (
    *("ray", "mlflow", "av", "cv2", "matplotlib", "onnx", "onnxruntime", "pandas", "sklearn", "mlxtend", "libarchive"),
    *("s3fs", "boto3", "aiohttp", "yaml", "cronsim", "tyro", "efficientnet_lite_pytorch", "timm", "torchvision"),
    "torch._dynamo",
)
"""All but torch (without its compiler), numpy, pyarrow, fsspec, safetensors, scikit-image, rich and what these need."""
TOY = [
    *("--pretrain.num-units", "8", "--pretrain.num-steps", "3", "--pretrain.batch-size", "4", "--no-pictures"),
    *("--pretrain.max-validation-batches", "1", "--num-test-sequences", "20", "--workers", "1"),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with noise in the place of MNIST."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)

    def write(name: str, array: np.ndarray) -> None:
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / name).write_bytes(head + array.astype(np.uint8).tobytes())

    for part, num in (("train", 200), ("t10k", 60)):
        write(f"{part}-images-idx3-ubyte", rng.integers(0, 256, (num, 28, 28)))
        write(f"{part}-labels-idx1-ubyte", np.arange(num) % 10)
    return str(folder)


def run(code: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_WAIT"))}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=800)


def test_few_libraries_are_enough_and_the_bytes_are_those_of_ray(digits: str, tmp_path: Path) -> None:
    """On this recipe; a name in sys.modules that is None is as one that is not installed."""
    recipe = ["run", "moving-mnist", "--digits.mnist", digits, *TOY]
    entry = "from pipeline.commands.__main__ import entry; entry()"
    tell = "import atexit, os, sys; atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'], file=sys.stderr))"
    block = f"{tell}; sys.modules.update(dict.fromkeys({MISSING!r})); {entry}"
    alone = run(block, [*recipe, "--in-process", "--store", str(tmp_path / "alone")])
    assert alone.returncode == 0, alone.stderr
    assert "not recorded in MLflow: mlflow is not installed" in alone.stdout
    assert alone.stderr.splitlines()[-1] == "passive", "threads that wait would spin beside other processes"
    report = Path(alone.stdout.strip().splitlines()[-1])
    assert report.is_file()
    on_ray = run(entry, [*recipe, "--no-tracking", "--store", str(tmp_path / "ray")])
    assert on_ray.returncode == 0, on_ray.stderr
    artifacts = [
        {
            (manifest.key, name): output.sha256
            for manifest in Store.open(str(tmp_path / store)).manifests()
            for name, output in manifest.outputs.items()
            if name not in ("history.json", "pixel_scores.json")  # these hold the seconds of the training
        }
        for store in ("alone", "ray")
    ]
    assert len(artifacts[0]) >= 3
    assert artifacts[0] == artifacts[1]
    scores = [
        next((tmp_path / store).glob("score_pixels/*/pixel_scores.json")).read_text() for store in ("alone", "ray")
    ]
    assert len({re.sub(r'"seconds": [\d.]+', "", text) for text in scores}) == 1
    again = run(block, [*recipe, "--in-process", "--store", str(tmp_path / "ray")])
    assert again.returncode == 0, again.stderr
    assert "made in" not in again.stdout.partition("writing the report")[0]


def test_without_mlflow_nothing_is_registered(digits: str, tmp_path: Path) -> None:
    arguments = ["moving-mnist", "--digits.mnist", digits, *TOY, "--store", str(tmp_path / "store"), "--in-process"]
    with pytest.raises(UsageError, match="--register digits needs MLflow"):
        main([*arguments, "--register", "digits", "--no-tracking"])
    assert not (tmp_path / "store").exists()
