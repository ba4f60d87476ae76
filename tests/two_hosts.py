"""Two Ray hosts in network namespaces of this machine, joined by a cable that can be cut.

Only one pair can exist at a time: whoever wants it waits for the other. The pair is taken down without `ray stop`,
which would end every Ray of this machine: only the processes inside the two namespaces are killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.conftest import ROOT

LOCK = Path("/tmp/two_hosts.lock")
HEAD = "10.99.0.1:6400"
AS_HEAD = ("--head", "--port=6400", "--include-dashboard=false", "--disable-usage-stats")
CLONE_NEWNET = 0x40000000
T = TypeVar("T")
BIN = Path(sys.executable).parent
SETTINGS = {
    # A node that is cut off is given up after 5 x (0.5 + 1.5) s; ray_cluster.yaml is more patient.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1500",
    "PERCEPTS_GROW_AFTER_S": "2",
    # Nobody takes these hosts back; a group has a process less, which imports Ray Train at each of its starts.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def missing() -> str | None:
    """Why this machine cannot have two hosts; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs `ip` (Debian package iproute2)"
    return None


@dataclass(frozen=True)
class TwoHosts:
    """Host 1 is the head; host 2 hangs on the cable."""

    state: Path

    def on(self, host: int, *command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command on a host; what it says goes to the end of `log`."""
        environment = self._environment() | {"RAY_ADDRESS": HEAD}
        with log.open("ab") as output:
            return subprocess.Popen([*inside(host), *command], stdout=output, stderr=output, env=environment, cwd=ROOT)

    def up(self) -> None:
        """Starts both hosts and puts the cable between them."""
        for host in (1, 2):
            run("ip", "netns", "add", name_of(host))
            run(*inside(host), "ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "pc1", "type", "veth", "peer", "name", "pc2")
        for host in (1, 2):
            run("ip", "link", "set", f"pc{host}", "netns", name_of(host))
            run(*inside(host), "ip", "addr", "add", f"{address_of(host)}/24", "dev", f"pc{host}")
            run(*inside(host), "ip", "link", "set", f"pc{host}", "up")
        self._start_ray(1, *AS_HEAD)
        self._start_ray(2, f"--address={HEAD}")

    def cut(self) -> None:
        run(*inside(2), "ip", "link", "set", "pc2", "down")

    def join(self) -> None:
        run(*inside(2), "ip", "link", "set", "pc2", "up")

    def new_host_2(self) -> None:
        """What an autoscaler does: the processes of the lost host end, and a fresh one joins."""
        kill_all(2)
        self._start_ray(2, f"--address={HEAD}")

    def pids(self, host: int, title: str) -> list[int]:
        """Processes of a host whose command line holds `title`."""
        return [pid for pid in pids(host) if title in command_line(pid)]

    def _start_ray(self, host: int, *options: str) -> None:
        # What reads its workers' logs would send them to drivers, which print nothing of them.
        options += ("--num-cpus=1", "--include-log-monitor=false", f"--node-ip-address={address_of(host)}")
        start = (*inside(host), "ray", "start", *options, f"--temp-dir={self.state}/{host}")
        run(*start, environment=self._environment())

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return kept | SETTINGS | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def name_of(host: int) -> str:
    return f"percepts{host}"


def address_of(host: int) -> str:
    return f"10.99.0.{host}"


def inside(host: int) -> tuple[str, ...]:
    """The words before a command that is to run on a host."""
    return "ip", "netns", "exec", name_of(host)


def run(*command: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """The pair, up; down in the end, whatever happens."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        take_down()  # what a killed test has left
        # Sockets below a long path do not fit into 107 characters: Ray's directory must be a short one.
        hosts = TwoHosts(Path("/tmp") / f"two-{secrets.token_hex(3)}")
        try:
            hosts.up()
            yield hosts
        finally:
            take_down()
            shutil.rmtree(hosts.state, ignore_errors=True)


def on_network_of(host: int, make: Callable[[], T]) -> T:
    """Returns what a function makes on a thread that has entered a host's network; its sockets stay there."""

    def enter() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{name_of(host)}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        return make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter).result()


def take_down() -> None:
    """End the processes of both namespaces and remove them, and nothing else."""
    for host in (1, 2):
        if exists(host):
            kill_all(host)
            subprocess.run(["ip", "netns", "del", name_of(host)], check=True)


def exists(host: int) -> bool:
    return Path("/run/netns", name_of(host)).exists()


def pids(host: int) -> list[int]:
    listing = subprocess.run(["ip", "netns", "pids", name_of(host)], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listing.stdout.split()]


def kill_all(host: int) -> None:
    """kill -9 every process of a namespace, until there is none."""
    deadline = time.monotonic() + 240
    while found := pids(host):
        assert time.monotonic() < deadline, f"processes {found} of host {host} do not end"
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it ended while we looked
        return ""
