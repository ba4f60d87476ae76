"""A proxy in front of a server, which breaks connections off and answers 503 as a busy bucket does."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

BUSY: Final = (
    b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>Please reduce nothing.</Message></Error>"
)
HEADERS: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: "
    + str(len(BUSY)).encode()
    + b"\r\n\r\n"
)


@dataclass
class FlakyProxy:
    """Forwards connections to a server; breaks some off, and is out of order for a while now and then."""

    target: tuple[str, int]
    break_every: int = 0
    """Every so many connections is broken off in the middle of what the server answers; 0: none."""
    busy_every: int = 0
    """After so many connections nothing but 503 is answered for a while; 0: never."""
    busy_s: float = 0.0
    """How long that is, seconds."""
    counted: Counter[str] = field(default_factory=Counter)
    """Connections by what became of them: forwarded, broken, busy."""
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _busy_until: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Takes connections until the listener is closed."""
        for number in itertools.count(1):
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.busy_every and number % self.busy_every == 0:
                self._busy_until = time.monotonic() + self.busy_s
            is_busy = time.monotonic() < self._busy_until
            is_broken = self.break_every > 0 and number % self.break_every == 0
            kind = "busy" if is_busy else "broken" if is_broken else "forwarded"
            self.counted[kind] += 1
            # In turn within the headers of the answer and within its body, if that is long enough.
            limit = (40 if self.counted[kind] % 2 else 600) if kind == "broken" else None
            threading.Thread(target=self._handle, args=(client, kind, limit), daemon=True).start()

    def _handle(self, client: socket.socket, kind: str, limit: int | None) -> None:
        with client:
            if kind == "busy":
                with suppress(OSError):
                    asked = client.recv(1 << 16)
                    client.sendall(HEADERS if asked.startswith(b"HEAD ") else HEADERS + BUSY)
                return
            with socket.create_connection(self.target) as server:
                there = threading.Thread(target=_pump, args=(client, server), daemon=True)
                there.start()
                _pump(server, client, limit)
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                    server.shutdown(socket.SHUT_RDWR)
                there.join()

    def close(self) -> None:
        # Closing alone does not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _pump(source: socket.socket, sink: socket.socket, limit: int | None = None) -> None:
    """Hands on what comes from one side to the other, at most `limit` bytes of it."""
    with suppress(OSError):
        while data := source.recv(1 << 16 if limit is None else limit):
            sink.sendall(data)
            limit = None if limit is None else limit - len(data)
            if limit == 0:
                return
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def flaky_proxy(target: tuple[str, int], **faults: float) -> Iterator[FlakyProxy]:
    """Yields a running proxy."""
    proxy = FlakyProxy(target, **faults)  # type: ignore[arg-type]
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
