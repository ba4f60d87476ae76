"""Calls that MLflow did not take of a run, in the store until they are sent: `<store>/tracking/unsent/<box>/`.

A box has a `box.json`, which says whose it is and how much of it was sent, and files of calls, a JSON object a line:
the name of the call, the run that it is about and its values. A run that MLflow has not created yet has an id of its
own, in whose place the sender puts MLflow's.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.core.error_words import one_line
from pipeline.core.files import (
    filesystem,
    is_local,
    join,
    list_directories,
    list_files,
    read_bytes,
    read_json,
    remove,
    write_bytes,
    write_json,
)
from pipeline.core.records import read_record, write_record

TRACKING: Final = "tracking"
"""Directory of the store with what is known of its MLflow."""
UNSENT: Final = f"{TRACKING}/unsent"
ANSWERED: Final = f"{TRACKING}/answered.json"
"""File of the store: addresses at which an MLflow has answered to it."""
BOX_FILE: Final = "box.json"
CALLS_PER_FILE: Final = 200
SECONDS_BETWEEN_FILES: Final = 15.0


@dataclass(frozen=True)
class Call:
    """A call that writes to MLflow."""

    name: str
    run_id: str
    values: dict[str, Any]
    """Arguments by name, as plain JSON values."""


@dataclass(frozen=True, kw_only=True)
class OutboxHead:
    """The head of a box."""

    address: str
    """Address of the MLflow that the calls are for, without secrets; empty: the file in the store."""
    experiment: str
    started_at: str
    """UTC, ISO 8601."""
    process: str
    """HOST:PID of the process that fills it."""
    num_calls: int = 0
    num_sent: int = 0
    """Number of calls from the first on that were sent, or refused."""
    refused: tuple[int, ...] = ()
    """Numbers of calls that MLflow refused while it took others."""
    reason: str = ""
    """The error of the last call that failed."""
    is_closed: bool = False

    @property
    def num_missing(self) -> int:
        """Number of calls that MLflow does not have."""
        return self.num_calls - self.num_sent + len(self.refused)

    @property
    def is_elsewhere(self) -> bool:
        """True if the process that fills the box is on another machine and has not closed it; it may be dead."""
        return not self.is_closed and self.process.partition(":")[0] != socket.gethostname()

    @property
    def lives(self) -> bool:
        """True if the process that fills the box lives on this machine."""
        return not (self.is_closed or self.is_elsewhere) and is_alive(int(self.process.partition(":")[2]))


class Outbox:
    """The box of one run, which is begun with its first call. Nothing that goes wrong in writing it is raised."""

    def __init__(self, root: str, address: str, experiment: str) -> None:
        now = datetime.now(UTC)
        self.uri = join(root, UNSENT, f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}")
        self.box = OutboxHead(
            address=address,
            experiment=experiment,
            started_at=now.isoformat(timespec="seconds"),
            process=f"{socket.gethostname()}:{os.getpid()}",
        )
        self.problem = ""
        """Reason for which the store does not take the calls; empty if it does."""
        self._lines: list[str] = []
        self._last_write_s = time.monotonic()

    def add(self, call: Call, reason: str) -> None:
        """Adds a call that MLflow did not take, for this reason."""
        is_first = not self.box.num_calls
        self.box = replace(self.box, num_calls=self.box.num_calls + 1, reason=reason)
        self._lines.append(json.dumps(asdict(call)))
        waited_s = time.monotonic() - self._last_write_s
        if is_first or len(self._lines) >= CALLS_PER_FILE or waited_s > SECONDS_BETWEEN_FILES:
            self._write()

    def close(self) -> None:
        """Writes the rest. Nothing may be added afterwards."""
        if self.box.num_calls:
            self.box = replace(self.box, is_closed=True)
            self._write()

    def _write(self) -> None:
        self._last_write_s = time.monotonic()
        try:
            if self._lines:
                name = f"{self.box.num_calls:09d}.jsonl"
                write_bytes(join(self.uri, name), "".join(f"{line}\n" for line in self._lines).encode())
                self._lines.clear()
            write_record(join(self.uri, BOX_FILE), self.box)
            self.problem = ""
        except Exception as error:  # noqa: BLE001  # by place: a store raises what its client library raises
            self.problem = one_line(error)


def is_alive(pid: int) -> bool:
    """Returns whether this machine has a process with this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def answered(root: str) -> list[str]:
    """Returns the public addresses at which an MLflow has answered to a store."""
    try:
        return list(read_json(join(root, ANSWERED)))
    except (FileNotFoundError, ValueError):
        return []


def remember_answer(root: str, address: str) -> None:
    """Notes that an MLflow has answered to the store at a public address."""
    before = answered(root)
    if address not in before:
        write_json(join(root, ANSWERED), sorted({*before, address}))


def unsent(root: str) -> dict[str, OutboxHead]:
    """Returns the boxes of a store, by their URI, the oldest first. Raises CorruptArtifact."""
    uris = [join(root, UNSENT, name) for name in list_directories(join(root, UNSENT))]
    return {uri: box for uri in uris if (box := _read(uri)) is not None}


def _read(uri: str) -> OutboxHead | None:
    try:
        box: OutboxHead = read_record(join(uri, BOX_FILE), OutboxHead)
    except FileNotFoundError:  # another process has sent it
        return None
    return box


def iter_calls(uri: str) -> Iterator[Call]:
    """Yields the calls of a box in their order."""
    for name in list_files(uri):
        if name.endswith(".jsonl"):
            for line in read_bytes(join(uri, name)).decode().splitlines():
                yield Call(**json.loads(line))


def save_progress(uri: str, box: OutboxHead) -> None:
    """Writes how much of a box was sent; removes the box once all of it was."""
    if not box.lives and not box.num_missing:
        remove(uri)
    else:
        write_record(join(uri, BOX_FILE), box)


@contextmanager
def only_sender(root: str) -> Iterator[None]:
    """Waits until no other process of this machine sends what this store holds."""
    with locked(filesystem(join(root, UNSENT))[1]) if is_local(root) else nullcontext():
        yield


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Waits until no other process of this machine holds the lock of a directory, and holds it meanwhile."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
