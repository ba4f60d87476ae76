"""A Ray session: a local one that ends with this process, or a cluster at an address.

Token authentication is on in every local session. A cluster is joined with the token of the environment
(`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN` or Ray's own token file), as `ray job submit` does.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.code_package import code_package
from cluster.exported_metrics import MetricsExport
from cluster.local_machine import cluster_address
from cluster.node_usage import NodeSampler
from cluster.placement import check_cluster, this_node
from cluster.ray_private import LOCAL_TRAIN_SETTINGS, is_ray_job, private_ray, silence_raylets
from pipeline.core.addresses.servers import why_no_connection, why_no_grpc_server
from pipeline.core.error_words import one_line
from pipeline.core.errors import UsageError
from pipeline.core.events import Emit, Event, Log
from pipeline.core.stage import Resources

MAX_RESTARTS = 2
"""Restarts of a task after the loss of its process."""


THREAD_SETTINGS = {"OMP_WAIT_POLICY": "passive"}
"""Environment variables that let waiting OpenMP threads sleep. With the default, spinning, a training step of two
threads on two shared cores took 13 times as long; on idle cores spinning gained nothing that could be measured."""


@dataclass(frozen=True, kw_only=True)
class FinishedTask:
    """A task that has ended, with its value or the exception that it raised."""

    name: str
    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class _Task:
    """A task as it was submitted."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    num_losses: int = 0
    """Processes of this task that have died so far."""


@dataclass
class Session:
    """Tasks in flight on Ray, and the queue of their events."""

    event_queue: Any
    emit: Emit
    exported: MetricsExport
    """The metrics that Ray's endpoint shows of the tasks."""
    nodes: NodeSampler
    _running: dict[Any, _Task] = field(default_factory=dict)

    def start(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Starts `function(*args)` as a task that reserves no CPU: it coordinates, and its workers compute.

        The task runs on the driver's node, so the loss of another node costs workers and never ends the run. If its
        own process dies (killed, or out of memory), it is restarted up to `MAX_RESTARTS` times with a line in the
        log, and the stage resumes from its own files. An exception of the function is never retried.
        """
        self._submit(_Task(name, function, args))

    def _submit(self, task: _Task) -> None:
        import ray

        remote = ray.remote(num_cpus=0, max_retries=0)(task.function)
        reference = remote.options(name=task.name, scheduling_strategy=this_node()).remote(*task.args)
        self._running[reference] = task
        self.exported.set_running(len(self._running))

    def finished(self, timeout_seconds: float) -> list[FinishedTask]:
        """Returns the tasks that ended since the last call; waits at most `timeout_seconds` for the first."""
        import ray

        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_seconds)
        collected = [self._collect(reference) for reference in ready]
        return [done for done in collected if done is not None]

    def _collect(self, reference: Any) -> FinishedTask | None:
        """Returns the finished task, or None if its process died and it was restarted."""
        import ray

        from cluster.lost_nodes import LOSS_ERRORS

        task = self._running.pop(reference)
        self.exported.set_running(len(self._running))
        try:
            return FinishedTask(name=task.name, value=ray.get(reference))
        except ray.exceptions.RayTaskError as error:
            return FinishedTask(name=task.name, error=cause_of(error))
        except ray.exceptions.RayError as error:
            if not isinstance(error, LOSS_ERRORS) or task.num_losses == MAX_RESTARTS:
                return FinishedTask(name=task.name, error=error)
            restarted = replace(task, num_losses=task.num_losses + 1)
            which = f"beginning it again, {restarted.num_losses} of {MAX_RESTARTS} times"
            self.emit(Log(source=task.name, line=f"the stage's own process was lost: {one_line(error)}; {which}"))
            self._submit(restarted)
            return None

    def events(self) -> list[Event]:
        """Returns the events that arrived since the last call, in order."""
        import ray

        drained: list[Event] = ray.get(self.event_queue.drain.remote())
        for event in drained:
            self.exported.handle(event)
        return drained + self.nodes.take()

    def cancel(self) -> None:
        """Stops every task in flight. Finished files stay in the store."""
        import ray

        for reference in self._running:
            ray.cancel(reference, force=True)
        self._running.clear()


@contextmanager
def session(
    address: str | None,
    source_root: str,
    num_cpus: int | None = None,
    environment: Mapping[str, str] | None = None,
    needs: Iterable[Resources] = (),
) -> Iterator[Session]:
    """Opens a session at `address` (default: `RAY_ADDRESS`, else a new local Ray, which ends with the session).

    Args:
        source_root: directory that holds our packages; workers import from it (uploaded to a cluster unless a job,
            `ray job submit --working-dir`, has uploaded it already).
        num_cpus: cores of a local Ray; default: all.
        environment: variables for every worker, on every node.
        needs: what stages need of a cluster that is joined; `local_machine` has checked it for a local Ray.

    Raises:
        UsageError: nothing answers at the address, it refuses the token or cannot meet the needs, or more than code
            would be sent.
    """
    address = cluster_address(address)
    if address is None:
        _require_token()
    _put_on_python_path(source_root)
    import ray

    from cluster.event_queue import open_event_queue

    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        for variable, value in (THREAD_SETTINGS | LOCAL_TRAIN_SETTINGS).items():
            os.environ.setdefault(variable, value)
        # "local": without an address Ray would join whatever `ray start` has left running on this machine.
        options |= {"address": "local", "num_cpus": num_cpus}
    else:
        check_reachable(address)
        options["address"] = address
    upload: AbstractContextManager[dict[str, Any]] = nullcontext({}) if address is None else _upload(source_root)
    with upload as sent:
        runtime_env = {**sent, "env_vars": {**sent.get("env_vars", {}), **(environment or {})}}
        try:
            with private_ray() if address is None else nullcontext():
                # Ray types it as a base class without the address.
                context: Any = ray.init(**options, runtime_env=runtime_env if sent or environment else None)
        except Exception as error:  # a Ray that is too slow to start raises a bare `Exception`
            raise UsageError(_no_session(address, error)) from error
    if threading.current_thread() is threading.main_thread():
        # `ray job stop` sends SIGTERM: the driver then leaves as after Ctrl-C and marks its MLflow runs as killed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    silence_raylets()
    has_failed = True
    try:
        if address is not None:
            check_cluster(needs)
        event_queue, emit = open_event_queue()
        with closing(NodeSampler()) as nodes:
            yield Session(event_queue, emit, MetricsExport(), nodes)
        has_failed = False
    except KeyboardInterrupt:
        has_failed = False
        raise
    finally:
        ray.shutdown()
        if address is None and not has_failed:
            _remove_files(Path(context.address_info["session_dir"]))


def _no_session(address: str | None, error: Exception) -> str:
    reason = one_line(error, None)
    if address is not None:
        return f"cannot join Ray at {address}: {reason}"
    return (
        f"cannot start Ray on this machine: {reason} Where the machine is busy, run the same command again later; "
        "--in-process needs no Ray"
    )


def cause_of(error: Any) -> BaseException:
    """Returns the exception that a task raised, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _remove_files(session_dir: Path) -> None:
    """Removes what a local Ray leaves: logs and sockets, which nothing reads any more. After a failure they stay."""
    shutil.rmtree(session_dir, ignore_errors=True)
    latest = session_dir.with_name("session_latest")
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)


def _require_token() -> None:
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        raise UsageError(
            "RAY_AUTH_MODE is disabled, and anybody on this machine reaches a local Ray: unset it, and every "
            "session gets a token of its own; or give --in-process, which listens nowhere"
        )
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _put_on_python_path(source_root: str) -> None:
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if source_root not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([source_root, *filter(None, known)])


@contextmanager
def _upload(source_root: str) -> Iterator[dict[str, Any]]:
    """Yields the runtime environment with the code that Ray sends when it is joined, unless a job has brought it."""
    if is_ray_job():
        yield {}
        return
    with code_package(source_root, {}) as package:
        sys.stderr.write(f"{package.summary}\n")
        yield ({"working_dir": package.directory} if package.directory else {}) | {"env_vars": THREAD_SETTINGS}


def check_reachable(address: str) -> None:
    """Raises UsageError for what is no address of a Ray cluster, and where nothing listens at one."""
    if address == "auto":  # Ray looks for the head that `ray start` has left on this machine
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port[:9]) < 1 << 16:
        raise UsageError(
            f"{address!r} is no address of a Ray cluster: give --address or RAY_ADDRESS as HOST:PORT of its head, such "
            "as 10.0.0.5:6379, or unset RAY_ADDRESS for a local Ray"
        )
    has_tls = os.environ.get("RAY_USE_TLS", "0").lower() not in ("", "0", "false")
    why_no_head = why_no_connection if has_tls else why_no_grpc_server
    if reason := why_no_head(host.strip("[]"), int(port)):
        raise UsageError(
            f"no Ray cluster answers at {address!r} ({reason}); "
            "give --address HOST:PORT of a running head, or leave it out for a local Ray"
        )
