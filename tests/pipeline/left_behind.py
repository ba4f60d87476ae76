"""What commands leave behind on a machine: processes, listening ports, files in /tmp, in /dev/shm and in the cache."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import ROOT

MARK = "PERCEPTS_TEST_MARK"
NOTHING: dict[str, list[str]] = {"processes": [], "ports": [], "files": []}
OWN = 'mount --bind "$0/shm" /dev/shm && mount --bind "$0" /tmp && exec "$@"'
"""Gives a command a /tmp and a /dev/shm of its own, which are seen from outside as one folder."""


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Every living process that has inherited a variable, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def ports_of(processes: list[psutil.Process]) -> list[str]:
    """The addresses at which processes listen."""
    ports = []
    for process in processes:
        try:
            ports += [f"{c.laddr.ip}:{c.laddr.port}" for c in process.net_connections() if c.status == "LISTEN"]
        except psutil.NoSuchProcess:
            continue
    return ports


@dataclass(frozen=True)
class Machine:
    """What belongs to the commands of a test: processes that have its mark, and a folder for temporary files.

    For root, whatever the commands write into /tmp and /dev/shm lies in that folder; for others, what they write
    where TMPDIR points to.
    """

    mark: str
    folder: Path
    is_apart: bool

    @property
    def inside(self) -> Path:
        """The folder as the commands see it."""
        return Path("/tmp") if self.is_apart else self.folder

    @property
    def data(self) -> Path:
        """A folder for videos and stores, which does not count as left behind."""
        return self.folder / "data"

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PERCEPTS_"))}
        environment |= {MARK: self.mark, "TMPDIR": str(self.inside), "PYTHONPATH": str(ROOT)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        own = ["unshare", "--mount", "sh", "-c", OWN, str(self.folder)] if self.is_apart else []
        program = [*own, sys.executable, "-m", "pipeline.commands", *command]
        return subprocess.Popen(
            program, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def left(self) -> dict[str, list[str]]:
        """Returns the processes, listening ports and temporary files that are there."""
        processes = marked(MARK, self.mark)
        files = [path.relative_to(self.folder) for path in self.folder.rglob("*") if not path.is_dir()]
        return {
            "processes": [str(process.pid) for process in processes],
            "ports": ports_of(processes),
            "files": [str(path) for path in files if path.parts[0] != "data"],
        }

    def left_after_a_while(self) -> dict[str, list[str]]:
        """What is left, once processes that were told to end have had the time to."""
        deadline = time.monotonic() + 60
        while any((left := self.left()).values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left


@contextmanager
def machine_apart() -> Iterator[Machine]:
    """Yields a machine; ends whatever is left of its processes and files."""
    # Ray's sockets lie in it, whose paths must be short.
    folder = Path("/tmp") / f"left-{secrets.token_hex(4)}"
    for name in ("data", "shm"):
        (folder / name).mkdir(parents=True)
    hidden = any(Path(place).resolve().is_relative_to("/tmp") for place in (ROOT, sys.prefix))
    is_apart = os.geteuid() == 0 and shutil.which("unshare") is not None and not hidden
    machine = Machine(secrets.token_hex(8), folder, is_apart)
    try:
        yield machine
    finally:
        for process in marked(MARK, machine.mark):
            process.kill()
        shutil.rmtree(folder)
