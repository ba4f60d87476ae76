"""A Ray session: a local one that dies with this process, or a cluster at an address.

Token authentication is on in every session that is begun here; a cluster is joined with the token of the environment
(`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN` or Ray's own token file), as `ray job submit` does.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.placement import this_node
from cluster.ray_private import is_ray_job
from pipeline.core.errors import UsageError
from pipeline.core.events import Emit, Event, Log

CONNECT_TIMEOUT_SECONDS = 5.0
MAX_RESTARTS = 2
"""Of a task whose own process was lost."""
EXCLUDED_FROM_UPLOAD = [".git", ".venv", ".percepts", "docs", "tests", "**/__pycache__"]


PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive"}
"""Threads that wait for one another sleep. Spinning, as is the default, two threads on two cores that others use too
took 13 times as long for a training step; on idle cores it gains nothing that could be measured."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A task that has ended: its value, or what it raised."""

    name: str
    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class _Task:
    """What was started."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    num_losses: int = 0
    """Processes that it has lost so far."""


@dataclass
class Session:
    """Tasks in flight on Ray, and the mailbox through which they speak."""

    mailbox: Any
    emit: Emit
    _running: dict[Any, _Task] = field(default_factory=dict)

    def start(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Start `function(*args)` as a task that holds no CPU: it coordinates, its workers compute.

        It runs on the driver's own node: no other node's loss can then end the run, only cost workers. Where its own
        process is lost (killed, or out of memory), it is begun again, `MAX_RESTARTS` times, and the log says so: a
        stage goes on where it was. What it raises is never tried again.
        """
        self._submit(_Task(name, function, args))

    def _submit(self, task: _Task) -> None:
        import ray

        remote = ray.remote(num_cpus=0, max_retries=0)(task.function)
        reference = remote.options(name=task.name, scheduling_strategy=this_node()).remote(*task.args)
        self._running[reference] = task

    def finished(self, timeout_seconds: float) -> list[Done]:
        """Tasks that ended since the last call; waits at most `timeout_seconds` for the first."""
        import ray

        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_seconds)
        collected = [self._collect(reference) for reference in ready]
        return [done for done in collected if done is not None]

    def _collect(self, reference: Any) -> Done | None:
        """None where the task has been begun again."""
        import ray

        from cluster.lost_nodes import LOSSES, in_one_line

        task = self._running.pop(reference)
        try:
            return Done(name=task.name, value=ray.get(reference))
        except ray.exceptions.RayTaskError as error:
            return Done(name=task.name, error=cause_of(error))
        except ray.exceptions.RayError as error:
            if not isinstance(error, LOSSES) or task.num_losses == MAX_RESTARTS:
                return Done(name=task.name, error=error)
            again = replace(task, num_losses=task.num_losses + 1)
            which = f"beginning it again, {again.num_losses} of {MAX_RESTARTS} times"
            self.emit(Log(source=task.name, line=f"the stage's own process was lost: {in_one_line(error)}; {which}"))
            self._submit(again)
            return None

    def events(self) -> list[Event]:
        """What the tasks said since the last call, in order."""
        import ray

        drained: list[Event] = ray.get(self.mailbox.drain.remote())
        return drained

    def cancel(self) -> None:
        """Stop everything in flight; what it had finished stays on disk."""
        import ray

        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()


@contextmanager
def session(
    address: str | None, source_root: str, num_cpus: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Session]:
    """A session at `address` (default: `RAY_ADDRESS`, else a local Ray of its own, which ends with it).

    Args:
        source_root: directory that holds our packages; workers import from it (uploaded to a cluster unless a job,
            `ray job submit --working-dir`, has brought it already).
        num_cpus: cores of a local Ray; default: all.
        environment: variables for every worker, on every node.

    Raises:
        UsageError: nothing answers at the address, or it refuses the token.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None:
        _require_token()
    _put_on_python_path(source_root)
    import ray

    from cluster.event_queue import open_mailbox

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        for variable, value in PATIENT_THREADS.items():
            os.environ.setdefault(variable, value)
        # "local": without an address Ray would join whatever `ray start` has left running on this machine.
        options |= {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    else:
        _check_reachable(address)
        options |= {"address": address} | _upload(source_root)
    if environment:
        options["runtime_env"] = {**options.get("runtime_env", {}), "env_vars": dict(environment)}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot join Ray at {address or 'this machine'}: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        # `ray job stop` ends a driver so: it leaves as after Ctrl-C, and tells MLflow that it was stopped.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        mailbox, emit = open_mailbox()
        yield Session(mailbox, emit)
    finally:
        ray.shutdown()


def cause_of(error: Any) -> BaseException:
    """The exception that a task raised, freed from Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _require_token() -> None:
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _put_on_python_path(source_root: str) -> None:
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source_root not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([source_root, *filter(None, known)])


def _upload(source_root: str) -> dict[str, Any]:
    if is_ray_job():
        return {}
    return {"runtime_env": {"working_dir": source_root, "excludes": EXCLUDED_FROM_UPLOAD, "env_vars": PATIENT_THREADS}}


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"no Ray cluster answers at {address!r} ({error.strerror or error}); "
            "give --address HOST:PORT of a running head, or leave it out for a local Ray"
        ) from error
