"""Sessions: a local Ray that asks for a token and dies with its driver."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from cluster.local_machine import cluster_address
from cluster.session import Session, check_reachable, session
from pipeline.core.errors import UsageError
from pipeline.core.events import Log
from tests.conftest import ROOT

pytestmark = pytest.mark.ray

DRIVER = """
    import sys, time
    from cluster.session import session
    with session(None, {root!r}, num_cpus=1):
        import ray
        print(ray.get_runtime_context().gcs_address, flush=True)
        time.sleep(600)
"""


def ray_processes(session_directory_mark: str) -> list[str]:
    commands = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it ended while we looked
                continue
            if session_directory_mark in command and "ray" in command:
                commands.append(command)
    return commands


def test_the_processes_of_a_local_ray_die_with_a_killed_driver(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER.format(root=str(ROOT)))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert driver.stdout is not None
    # With the host before it: its digits alone may be in the command of another test's process.
    address = driver.stdout.readline().strip()
    assert ray_processes(address)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    deadline = time.monotonic() + 240
    while (left := ray_processes(address)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


STOPPED = """
    import time
    from cluster.session import session
    try:
        with session(None, {root!r}, num_cpus=1):
            print("up", flush=True)
            time.sleep(600)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@contextmanager
def leaves_nothing() -> Iterator[dict[str, str]]:
    """Yields variables for a command, of which neither a process, and so no port, nor a temporary file may be left."""
    # Sockets below a long path do not fit into 107 characters: Ray's directory must be a short one.
    mark, folder = secrets.token_hex(8), Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
    try:
        yield {"PERCEPTS_TEST_MARK": mark, "TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
        deadline = time.monotonic() + 240
        while (left := processes_with(mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left
        assert [path for path in folder.rglob("*") if not path.is_dir()] == []
    finally:
        shutil.rmtree(folder)


def processes_with(mark: str) -> list[str]:
    """Returns the command lines of processes in whose environment the mark is."""
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                left.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended while we looked
            continue
    return left


def test_a_driver_that_is_told_to_stop_leaves_as_after_ctrl_c_and_leaves_nothing() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with leaves_nothing() as variables:
        stop_a_driver(environment | variables)


def stop_a_driver(environment: dict[str, str]) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STOPPED.format(root=str(ROOT)))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "up\n"
    assert len(processes_with(environment["PERCEPTS_TEST_MARK"])) > 3, "Ray's processes do not carry the mark"
    driver.send_signal(signal.SIGTERM)
    assert driver.communicate(timeout=240)[0] == "interrupted\n"
    assert driver.returncode == 0


def test_a_local_ray_asks_for_a_token(ray_session: Session) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    attempt = "import ray, sys; ray.init(address=sys.argv[1], logging_level='ERROR')"
    # The head is a node of the loopback address, and a stranger gets as far as its token only as such a node, too.
    stranger_is = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | stranger_is
    stranger = subprocess.run(
        [sys.executable, "-c", attempt, address],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert stranger.returncode != 0
    assert "auth" in (stranger.stderr + stranger.stdout).lower()


def test_a_ray_that_does_not_start_in_time_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed_out(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", timed_out)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match=r"timed out during startup\..*--in-process"), session(None, str(ROOT)):
        pytest.fail("there is no session")


def test_a_local_ray_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UsageError, match="RAY_AUTH_MODE is disabled"), session(None, str(ROOT)):
        pass


def test_tasks_errors_and_events(ray_session: Session) -> None:
    def speak(emit: object, fail: bool) -> int:
        emit(Log(source="speak", line="hello"))  # type: ignore[operator]
        if fail:
            raise ValueError("no")
        return 7

    ray_session.start("good", speak, ray_session.emit, False)
    ray_session.start("bad", speak, ray_session.emit, True)
    done = {}
    while len(done) < 2:
        done |= {d.name: d for d in ray_session.finished(1.0)}
    assert done["good"].value == 7
    assert type(done["bad"].error) is ValueError
    lines: list[str] = []
    deadline = time.monotonic() + 240
    while len(lines) < 2 and time.monotonic() < deadline:  # a task's events may arrive after its result
        lines += [event.line for event in ray_session.events() if isinstance(event, Log)]
    assert lines == ["hello", "hello"]
    assert ray_session.finished(0.0) == []


def dies_once(flag: str) -> int:
    if not os.path.exists(flag):
        Path(flag).touch()
        os._exit(1)
    return 7


def raises_and_counts(log: str) -> None:
    with open(log, "a") as file:
        file.write("x")
    raise ValueError("no")


def test_a_task_whose_process_is_lost_is_begun_again_and_one_that_raises_is_not(
    ray_session: Session, tmp_path: Path
) -> None:
    ray_session.start("dies", dies_once, str(tmp_path / "flag"))
    ray_session.start("raises", raises_and_counts, str(tmp_path / "log"))
    ended = {}
    while len(ended) < 2:
        ended |= {done.name: done for done in ray_session.finished(1.0)}
    assert ended["dies"].value == 7
    assert isinstance(ended["raises"].error, ValueError)
    assert (tmp_path / "log").read_text() == "x"
    (log,) = [event for event in ray_session.events() if isinstance(event, Log)]
    assert log.source == "dies"
    assert "the stage's own process was lost" in log.line
    assert log.line.endswith("beginning it again, 1 of 2 times")


def test_an_address_where_nobody_answers_is_one_clear_error() -> None:
    refusal = pytest.raises(
        UsageError, match=r"no Ray cluster answers at '127\.0\.0\.1:9'.*leave it out for a local Ray"
    )
    with refusal, session("127.0.0.1:9", str(ROOT)):
        pass
    for address in ("nonsense", ":", ":6379", "head:99999", "head:0", "http://127.0.0.1:8265", "ray://head"):
        with pytest.raises(UsageError, match=r"is no address of a Ray cluster: give --address or RAY_ADDRESS"):
            check_reachable(address)


def test_what_listens_and_is_no_head_is_one_clear_error() -> None:
    """Ray itself waits for minutes and prints lines of C++; the port of its dashboard is easily mistaken."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UsageError, match="what listens there is no Ray head"):
            check_reachable(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_head_is_known_by_its_first_words(ray_session: Session) -> None:
    import ray

    check_reachable(str(ray.get_runtime_context().gcs_address))


def test_a_local_ray_is_local_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local Ray has a token and listens on loopback alone, so Ray's own word for it must not pass for a cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    assert cluster_address("local") is None
    for address in ("", " ", "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert cluster_address(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert cluster_address(None) == "head:6379"
    assert cluster_address("other:6379") == "other:6379"
    assert cluster_address("local") is None
