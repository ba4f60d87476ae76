"""The modules that processes import: no worker pays for MLflow or the report, and none for torch before it needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT

VERBS = sorted(f"stages.{path.stem}" for path in (ROOT / "stages").glob("[a-z]*.py"))
TRACKING = {"mlflow", "pipeline.engine.tracking.tracker", "pipeline.engine.tracking.runs"}
REPORT = {"pipeline.reporting", "pipeline.recipes", "pipeline.commands", "matplotlib", "rich.live"}
SLOW = {"torch", "sklearn", "scipy", "onnxruntime"}


def imported(*modules: str) -> set[str]:
    """Returns the names of all modules that a fresh Python has loaded after importing `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_worker_of_any_stage_needs_neither_mlflow_nor_the_report() -> None:
    modules = imported("pipeline.engine.execute", "cluster.workers", "cluster.training.training_group", *VERBS)
    assert {"torch", "ray", "stages.finetune"} <= modules, "the worker's own modules were not imported"
    assert not modules & TRACKING
    assert not modules & (REPORT - {"matplotlib", "rich.live"})


@pytest.mark.parametrize(
    ("process", "modules", "unneeded"),
    [
        (
            "the core",
            ("pipeline.core.stage", "pipeline.core.workers", "pipeline.core.addresses.model_uris"),
            SLOW | {"ray"},
        ),
        ("a driver", ("pipeline.run", "pipeline.engine.execute", "cluster.session"), SLOW | {"ray"}),
        ("a coordinator", ("pipeline.engine.execute", "cluster.workers"), SLOW | REPORT - {"rich.live"}),
        ("a prober", ("cluster.workers", "stages.ingest"), SLOW | REPORT),
        ("a decoder", ("cluster.streams", "stages.extraction.decode_queue", "stages.video.decode"), SLOW | REPORT),
        (
            "an isolated process",
            ("stages.video.processes.isolated_process", "stages.video.decode"),
            SLOW | REPORT | {"ray"},
        ),
    ],
)
def test_a_process_does_not_import_what_it_does_not_need(
    process: str, modules: tuple[str, ...], unneeded: set[str]
) -> None:
    extra = imported(*modules) & (unneeded | TRACKING)
    assert not extra, f"{process} imports {extra}"


CONFIG_VERBS = ("pretrain", "finetune", "forecast", "fuse", "evaluate", "near_duplicates", "visualize")


def test_options_of_models_are_listed_without_what_trains_or_draws_them() -> None:
    verbs = (*CONFIG_VERBS, "import_encoder", "official_splits", "digits_and_patches")
    extra = imported(*(f"stages.{verb}" for verb in verbs)) & (SLOW | {"matplotlib", "skimage", "PIL", "mlxtend"})
    assert not extra, f"options need {extra}"
