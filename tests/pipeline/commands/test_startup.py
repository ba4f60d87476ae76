"""The modules that a command imports before it has something to make; tests/bench/startup.py measures the seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEAVY = {"torch", "numpy", "pyarrow", "scipy", "sklearn", "pandas", "matplotlib", "mlflow", "ray", "av", "cv2", "rich"}

OF_MAKING = {"torch", "scipy", "sklearn", "matplotlib", "mlflow", "ray", "cv2", "pandas"}
"""Libraries of stages, of MLflow and of Ray."""


def modules_after(arguments: list[str]) -> tuple[int, set[str]]:
    """Runs a command in a fresh Python; returns its status and the names of all modules that it has loaded."""
    code = (
        "import atexit, sys; atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr));"
        f"sys.argv[1:] = {arguments!r}; from pipeline.commands.__main__ import entry; entry()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, set(done.stderr.partition("MODULES")[2].split())


@pytest.mark.parametrize(
    ("arguments", "status", "heavy"),
    [
        (["--help"], 0, HEAVY | {"fsspec"}),
        (["rnu"], 2, HEAVY | {"fsspec"}),
        (["run"], 2, HEAVY),
        (["run", "dmeo"], 2, HEAVY),
        (["verify", "--help"], 0, HEAVY),
        (["ledger", "--nosuch"], 2, HEAVY),
    ],
)
def test_help_and_mistakes_import_nothing_that_takes_long(arguments: list[str], status: int, heavy: set[str]) -> None:
    returncode, modules = modules_after(arguments)
    assert returncode == status
    assert "pipeline.commands.table" in modules
    assert not modules & heavy


@pytest.mark.parametrize(
    ("arguments", "status", "heavy"),
    [
        (["run", "demo", "--help"], 0, OF_MAKING),
        (["run", "ucf101", "--help"], 0, OF_MAKING),
        (["run", "demo", "--nosuch", "1"], 2, OF_MAKING),
        (["predict", "--help"], 0, OF_MAKING),
        (["classify", "--help"], 0, OF_MAKING),
        (["plan", "demo", "--store", "STORE"], 0, OF_MAKING),
        (["plan", "moving-mnist", "--store", "STORE", "--preset", "gpu"], 0, OF_MAKING),
    ],
)
def test_options_and_plans_import_no_library_of_making(
    arguments: list[str], status: int, heavy: set[str], tmp_path: Path
) -> None:
    returncode, modules = modules_after([str(tmp_path / "store") if a == "STORE" else a for a in arguments])
    assert returncode == status
    assert not modules & heavy


NOWHERE = "127.0.0.1:9"
"""An address at which nothing listens."""


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["run", "demo", "--store", "STORE", "--tracking-uri", f"http://{NOWHERE}"], {}),
        (["run", "demo", "--store", "STORE", "--tracking-uri", f"postgresql://me:word@{NOWHERE}/runs"], {}),
        (["run", "demo", "--store", "STORE", "--tracking-uri", "nope://x"], {}),
        (["run", "demo", "--store", "STORE", "--address", NOWHERE], {}),
        (["run", "demo", "--store", "STORE"], {"RAY_ADDRESS": f"ray://{NOWHERE}"}),
        (["run", "demo", "--store", "STORE"], {"RAY_ADDRESS": "http://127.0.0.1:8265"}),
        (["run", "demo", "--store", "STORE"], {"RAY_ADDRESS": "nonsense"}),
        (
            ["plan", "demo", "--store", "STORE", "--encoder", "models:/x/1"],
            {"MLFLOW_TRACKING_URI": f"http://{NOWHERE}"},
        ),
        (["compare", "latest~1", "latest"], {"MLFLOW_TRACKING_URI": f"http://{NOWHERE}"}),
        (["compare", "latest~1", "latest", "--tracking-uri", f"http://{NOWHERE}"], {}),
        (["predict", "models:/x/1", "moving-mnist:1"], {"MLFLOW_TRACKING_URI": f"http://{NOWHERE}"}),
        (["submit", "demo", "--store", "STORE", "--dashboard", f"http://{NOWHERE}"], {}),
    ],
)
def test_a_server_that_is_not_there_is_refused_before_its_library_is_imported(
    arguments: list[str], environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow and Ray take seconds to import, and MLflow as many again to give up."""
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    returncode, modules = modules_after([str(tmp_path / "store") if a == "STORE" else a for a in arguments])
    assert returncode == 2
    assert not modules & {"mlflow", "ray", "torch"}
