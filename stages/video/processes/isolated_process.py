"""A process that works on one video at a time, and may hang, crash or run out of memory without other harm.

    with IsolatedProcess(limits) as process:
        probe = process.call(probe_file, path)             # what the function returns
        for chunk in process.stream(decode, path): ...     # what a generator function yields, as it does

One process serves one call after the other and is replaced after a death. With `shared` (slots, and bytes of each) it
hands large arrays over in memory that both processes map (`stages.video.processes.shared_frames`).

The process may take `limits.max_memory_bytes` more than it needs to start (RLIMIT_AS, on Linux, unless `is_limited` is
false), and ends by itself when it has been silent for `limits.max_stall_s`, when it has grown by more than those bytes,
or when its parent is gone.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from pipeline.core.secrets import known, learn
from stages.video.limits import Limits
from stages.video.processes import questions, shared_frames, watchdog
from stages.video.processes.shared_frames import SharedFrames

P = ParamSpec("P")
T = TypeVar("T")

EXTERNAL_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
"""Signals from outside. An attempt that ends by one of them is repeated once."""


class ProcessDied(Exception):
    """The process died. The message says of what, in words for a ledger."""

    def __init__(self, reason: str, *, is_stall: bool) -> None:
        super().__init__(reason)
        self.is_stall = is_stall
        """Whether it was silent for too long: storage that does not answer looks the same as a video that does harm."""


class IsolatedProcess:
    """A process for one call at a time."""

    def __init__(
        self,
        limits: Limits,
        *,
        is_limited: bool = True,
        shared: tuple[int, int] | None = None,
        answer: Callable[[Any], Any] | None = None,
    ) -> None:
        """Takes the limits, and `answer`, which answers the questions of the process (`questions.ask`)."""
        self._limits = limits
        self._answer = answer
        self._is_limited = is_limited
        self._shared = shared
        self._frames: SharedFrames | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, busy or not."""
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child = self._pipe = self._frames = None

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns the function's result, or raises its error. Both must pickle. Raises ProcessDied."""
        value: T
        (value,) = self._run(function, args, kwargs, is_stream=False)
        return value

    def stream(self, function: Callable[P, Iterator[T]], *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        """Yields the items of the generator function, or raises its error.

        Raises ProcessDied, perhaps after some items.
        """
        return self._run(function, args, kwargs, is_stream=True)

    def _run(self, function: Callable[..., Any], args: Any, kwargs: Any, *, is_stream: bool) -> Iterator[Any]:
        is_second, num_received = False, 0
        while True:
            try:
                for number, item in enumerate(self._attempt((known(), function, args, kwargs, is_stream))):
                    # A second attempt gives the same items again.
                    if number >= num_received:
                        num_received += 1
                        yield item
                return
            except _KilledExternally:
                if is_second:
                    raise ProcessDied("the process that decoded it was killed twice", is_stall=False) from None
                is_second = True

    def _attempt(self, request: tuple[Any, ...]) -> Iterator[Any]:
        pipe, is_whole = self._start(), False
        try:
            pipe.send(request)
            while True:
                kind, item = pipe.recv() if self._frames is None else self._frames.loads(pipe.recv_bytes())
                if kind == "end":
                    is_whole = True
                    return
                if kind == "raised":
                    is_whole = True
                    raise item
                if kind == "ask":
                    assert self._answer is not None, "nobody answers questions of this process"
                    pipe.send(self._answer(item))
                    continue
                yield item
        except (EOFError, OSError) as error:
            if is_whole:
                raise
            raise self._cause() from error
        finally:
            if not is_whole:
                self.close()

    def _cause(self) -> Exception:
        """Returns an exception with the cause of the process's death."""
        assert self._child is not None
        status = self._child.wait()
        if -status in EXTERNAL_SIGNALS:
            return _KilledExternally()
        if -status == signal.SIGALRM:
            silent = f"no sign of life for {self._limits.max_stall_s:g} s (max_stall_s), twice"
            return ProcessDied(f"the process that decoded it gave {silent}", is_stall=True)
        if status == watchdog.OUT_OF_MEMORY:
            limit = f"max_memory_bytes = {self._limits.max_memory_bytes}"
            return ProcessDied(f"the process that decoded it took more memory than {limit}", is_stall=False)
        how = signal.strsignal(-status) if status < 0 else f"exit status {status}"
        return ProcessDied(f"the process that decoded it died twice: {how}", is_stall=False)

    def _start(self) -> Connection[Any, Any]:
        if self._pipe is None:
            self._pipe, child_end = Pipe()
            descriptors = [child_end.fileno()]
            command = [sys.executable, "-m", "stages.video.processes.isolated_process", str(child_end.fileno())]
            command += [str(self._limits.max_stall_s), str(self._limits.max_memory_bytes), str(int(self._is_limited))]
            if self._shared is not None:
                # New for each process: what the one before has sent stays valid.
                self._frames = SharedFrames(*self._shared)
                descriptors += self._frames.descriptors
                command += map(str, (*self._frames.descriptors, self._shared[0]))
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._child = subprocess.Popen(command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL)
            child_end.close()
            if self._frames is not None:
                self._frames.close_descriptors()
        return self._pipe


class _KilledExternally(Exception):
    pass


def _handle_requests(pipe: Connection[Any, Any], max_memory_bytes: int, is_limited: bool) -> None:
    """Serves requests in the isolated process until the parent is gone."""
    while True:
        addresses, function, args, kwargs, is_stream = pipe.recv()
        learn(addresses)
        if is_limited:
            # Not before: receiving a function imports its module and all that this needs.
            _limit_memory(max_memory_bytes)
            is_limited = False
        try:
            if is_stream:
                for item in function(*args, **kwargs):
                    shared_frames.send(pipe, ("item", item))
                    shared_frames.wait_for_a_slot()
            else:
                shared_frames.send(pipe, ("item", function(*args, **kwargs)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except MemoryError:
            os._exit(watchdog.OUT_OF_MEMORY)
        except Exception as error:  # noqa: BLE001
            shared_frames.send(pipe, ("raised", error))
        else:
            shared_frames.send(pipe, ("end", None))


def _limit_memory(max_bytes: int) -> None:
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            virtual_bytes = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes + max_bytes,) * 2)


def main(descriptor: int, max_stall_s: float, max_memory_bytes: int, is_limited: int, *shared: int) -> None:
    """Runs the isolated process, which talks over the pipe with this file descriptor.

    `shared` are the arguments of `shared_frames.use_memory`, if frames are to be handed over in shared memory.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if shared:
        shared_frames.use_memory(*shared)
    watchdog.arm(max_stall_s, max_memory_bytes)
    pipe: Connection[Any, Any] = Connection(descriptor)
    questions.connect(pipe)
    try:
        _handle_requests(pipe, max_memory_bytes, bool(is_limited))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:]))
