"""A local Ray: what it is asked for and cannot give is refused before it starts, and it listens on loopback alone."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray

from cluster import local_machine
from cluster.local_machine import check_local, count_cores
from cluster.session import Session
from pipeline.commands import table
from pipeline.core.errors import UsageError


def test_what_this_machine_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_machine, "count_gpus", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    fits = {"num_cpus": None, "cpus_per_worker": 1.0, "gpus_per_worker": 0.0}
    for changed in (
        {},
        {"num_cpus": 8},
        {"cpus_per_worker": 4.0},
        {"gpus_per_worker": 2.0},
        {"gpus_per_worker": 0.5},
        {"min_workers": 4},
    ):
        check_local(**(fits | changed))  # type: ignore[arg-type]  # floats and None
    for changed, words in (
        ({"num_cpus": 33}, "--num-cpus 33 is more than 8 times the 4 cores"),
        ({"cpus_per_worker": 5.0}, "--train-threads asks for 5 cores .* gives 4"),
        ({"num_cpus": 2, "cpus_per_worker": 3.0}, "gives 2"),
        ({"gpus_per_worker": 3.0}, "--gpus-per-worker 3 is more than the 2 GPUs of this machine"),
        ({"gpus_per_worker": 1.5}, "whole GPUs"),
        ({"min_workers": 5}, "at least 5 workers, of 5 cores together, and this machine gives 4"),
        ({"min_workers": 3, "gpus_per_worker": 1.0}, "3 cores and 3 GPUs together, .* gives 4 and 2"),
    ):
        with pytest.raises(UsageError, match=words):
            check_local(**(fits | changed))  # type: ignore[arg-type]


def test_cores_are_those_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    limit = tmp_path / "cpu.max"
    for text, expected in (
        ("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("", 8)
    ):  # fmt: skip
        limit.write_text(text)
        assert count_cores(limit) == expected
    assert count_cores(tmp_path / "none") == 8


def test_a_long_folder_for_temporary_files_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv(variable, "/tmp/" + "x" * 60)
        with pytest.raises(UsageError, match="set RAY_TMPDIR to a shorter one"):
            check_local(num_cpus=None, cpus_per_worker=1.0, gpus_per_worker=0.0)
    monkeypatch.setenv("RAY_TMPDIR", "/proc/x")
    with pytest.raises(UsageError, match=r"/proc/x .*: set RAY_TMPDIR to one that it can"):
        check_local(num_cpus=None, cpus_per_worker=1.0, gpus_per_worker=0.0)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_local(num_cpus=None, cpus_per_worker=1.0, gpus_per_worker=0.0)


def test_a_run_is_refused_before_its_store_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(local_machine, "count_gpus", lambda: 0)
    with pytest.raises(UsageError, match="0 GPUs of this machine"):
        table.main(["run", "moving-mnist", "--store", str(store), "--gpus-per-worker", "1"])
    assert not store.exists()


def test_a_local_session_listens_on_loopback_alone(ray_session: Session) -> None:
    """Ray's processes, those of workers included; they were 13 sockets, most of them on all addresses."""
    assert ray.get(ray.remote(lambda: 1).remote()) == 1  # a worker listens, too
    driver = psutil.Process()
    listening = set()
    for process in (driver, *driver.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # one that has ended meanwhile listens no more
            if process == driver or "ray" in " ".join(process.cmdline()):
                sockets = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
                listening |= {(process.name(), connection.laddr.ip) for connection in sockets}
    assert len(listening) >= 4
    for name, address in listening:
        ip = ipaddress.ip_address(address)
        inner = getattr(ip, "ipv4_mapped", None) or ip
        assert inner.is_loopback, (name, address)
