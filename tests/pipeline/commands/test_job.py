"""`ray job submit -- python pipeline/run.py demo` against a real head that asks for a token."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.core.printable import is_printable
from pipeline.engine.store import Store
from tests.conftest import ROOT
from tests.pipeline.ray_head import BIN
from tests.pipeline.small_demo import SMALL_DEMO

pytestmark = pytest.mark.ray


def submitted(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Submit, and again while the head has no agent for jobs yet: it listens some seconds before it has one."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500
        )
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


@pytest.mark.timeout(600)
def test_a_submitted_job_runs_the_demo_and_tracks_its_commit(head: dict[str, str], tmp_path: Path) -> None:
    root = str(tmp_path / "store")
    submit = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--"]
    command = ["python", "pipeline/run.py", *SMALL_DEMO, "--store", root]
    done = submitted([*submit, "env", "PERCEPTS_COMMIT=0123abc", "FORCE_COLOR=1", *command], head)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    manifests = list(Store.open(root).manifests())
    assert len(manifests) == 11
    assert {manifest.commit for manifest in manifests} == {"0123abc"}
    log = done.stdout[done.stdout.index("opening MLflow") : done.stdout.index("report.html")]
    lines = log.split("\n")
    assert all(is_printable(character) for line in lines for character in line)
    assert max(Counter(line for line in lines if ": " in line).values()) == 1  # an event is one line

    stranger = {k: v for k, v in head.items() if k != "RAY_AUTH_TOKEN"} | {"RAY_AUTH_MODE": "disabled"}
    listing = [str(BIN / "ray"), "job", "list"]
    for environment, admitted in ((head, True), (stranger, False)):
        answer = subprocess.run(listing, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert (answer.returncode == 0) == admitted, answer.stdout + answer.stderr
