"""Extraction under kill -9: an extractor, a whole node and the driver, once each, on a cluster of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.chaos import ROOT, TARGETS


def test_a_store_that_was_killed_into_being_equals_an_undisturbed_one() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.chaos", "--kills", "3"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["killed"] == dict.fromkeys(TARGETS, 1)
    assert report["equal"]
    assert report["closes"]
