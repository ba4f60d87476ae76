"""What a command leaves behind, ended well or by Ctrl-C: no process, no listening port, no temporary file."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.pipeline.small_store import encode_clips

MARK = "PERCEPTS_TEST_MARK"
SMALL = (
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "32", "--extract.decode.crop-px", "32", "--extract.decode.short-side-px", "32"),
    *("--pretrain.num-units", "6", "--pretrain.num-frames-in", "4", "--pretrain.num-frames-out", "3"),
    *("--pretrain.batch-size", "4", "--pretrain.window-stride", "1", "--pretrain.validation-fraction", "0.4"),
    *("--workers", "1", "--held-out", "0", "--no-tracking"),
)
TIMEOUT_S = 300


@dataclass(frozen=True)
class Machine:
    """What belongs to the commands of a test: processes that have its mark, and a directory for temporary files."""

    mark: str
    temporary: Path

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {MARK: self.mark, "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        program = [sys.executable, "-m", "pipeline.commands", *command]
        return subprocess.Popen(
            program, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def processes(self) -> list[psutil.Process]:
        """Every process that has inherited the mark, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def left(self) -> dict[str, list[str]]:
        """Returns the processes, listening ports and temporary files that are there."""
        processes, ports = self.processes(), []
        for process in processes:
            try:
                ports += [f"{c.laddr.ip}:{c.laddr.port}" for c in process.net_connections() if c.status == "LISTEN"]
            except psutil.NoSuchProcess:
                continue
        files = [str(path) for path in self.temporary.rglob("*") if not path.is_dir()]
        return {"processes": [str(process.pid) for process in processes], "ports": ports, "files": files}

    def left_after_a_while(self) -> dict[str, list[str]]:
        """What is left, once processes that were told to end have had the time to."""
        deadline = time.monotonic() + 60
        while any((left := self.left()).values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left


NOTHING: dict[str, list[str]] = {"processes": [], "ports": [], "files": []}


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Ray's sockets lie in it, whose paths must be short.
    temporary = Path("/tmp") / f"left-{secrets.token_hex(4)}"
    temporary.mkdir()
    made = Machine(secrets.token_hex(8), temporary)
    try:
        yield made
    finally:
        for process in made.processes():
            process.kill()
        shutil.rmtree(temporary)


@pytest.mark.timeout(900)
def test_commands_leave_no_process_no_port_and_no_file(machine: Machine, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"))
    run = ("run", "youtube", "--videos", *encode_clips(tmp_path, 4), *SMALL, *store)
    commands = (
        ("plan", *run[1:]),
        (*run, "--in-process"),
        ("ledger", *store),
        ("verify", *store),
        ("status", *store),
        ("prune", "--keep", "1", *store),
        ("compact", *store),
    )
    for command in commands:
        process = machine.start(*command)
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, said
        assert machine.left() == NOTHING, command


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_run_on_ray_that_is_interrupted_ends_all_that_it_began(machine: Machine, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"))
    steps = ("--pretrain.num-steps", "1000000", "--num-cpus", "1")
    process = machine.start("run", "youtube", "--videos", *encode_clips(tmp_path, 4), *SMALL, *steps, *store)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("pretrain") and "steps" in line:
            break
    during = machine.left()
    assert len(during["processes"]) > 3, "".join(said)
    assert during["ports"]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, "".join(said) + rest
    assert machine.left_after_a_while() == NOTHING
