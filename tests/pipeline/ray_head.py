"""A real Ray head with a dashboard and a token, as `ray start --head` makes it, for tests that submit jobs."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def ray_head() -> Iterator[dict[str, str]]:
    """A Ray head with a dashboard that asks for a token; yields the environment that reaches it."""
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
    # What a job prints is read from its file; what reads the logs of workers would send them to drivers.
    start += ["--num-cpus=2", f"--temp-dir={short}", "--disable-usage-stats", "--include-log-monitor=false"]
    # Not `ray stop` in the end: it would stop every Ray of this machine, the one of the other tests too.
    process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(dashboard, process)
    try:
        yield environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        kill_tree(process)
        shutil.rmtree(short, ignore_errors=True)


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of all that a process has started: Ray's own way to end took 38 s."""
    root = psutil.Process(process.pid)
    for member in (*root.children(recursive=True), root):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens at the port."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"the head did not listen at {port}; it ended with {process.poll()}")


def submit_job(command: list[str], environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, and again while the head has no agent for jobs yet: it listens some seconds before it has."""
    submit, deadline = [BIN / "ray", "job", "submit", "--working-dir", ".", "--", *command], time.monotonic() + 240
    while True:
        done = subprocess.run(
            submit, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=800
        )
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)
