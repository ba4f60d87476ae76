"""`ray job submit -- python pipeline/run.py demo` against a real head that asks for a token."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine.store import Store
from tests.conftest import ROOT
from tests.pipeline.small_demo import SMALL_DEMO

pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """A Ray head with a dashboard; yields the environment that reaches it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    port, dashboard = free_port(), free_port()
    # Sockets below a long path do not fit into 107 characters: Ray's directory must be a short one.
    short = Path("/tmp") / f"percepts-{secrets.token_hex(4)}"
    start = [BIN / "ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}"]
    # Its agent takes the jobs, at a port that the Ray of the other tests has already.
    start += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    start += ["--num-cpus=2", f"--temp-dir={short}", "--disable-usage-stats"]
    # Not `ray stop` in the end: it would stop every Ray of this machine, the one of the other tests too.
    process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(dashboard, process)
    yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    process.terminate()
    process.wait(timeout=60)
    shutil.rmtree(short, ignore_errors=True)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens at the port."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"the head did not listen at {port}; it ended with {process.poll()}")


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
    done = submitted([*submit, "env", "PERCEPTS_COMMIT=0123abc", *command], head)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    manifests = list(Store.open(root).manifests())
    assert len(manifests) == 11
    assert {manifest.commit for manifest in manifests} == {"0123abc"}
    assert "report.html" in done.stdout

    stranger = {k: v for k, v in head.items() if k != "RAY_AUTH_TOKEN"} | {"RAY_AUTH_MODE": "disabled"}
    listing = [str(BIN / "ray"), "job", "list"]
    for environment, admitted in ((head, True), (stranger, False)):
        answer = subprocess.run(listing, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert (answer.returncode == 0) == admitted, answer.stdout + answer.stderr
