"""Hosts of strangers' addresses: private ones are refused however they are written, slow ones hold nobody up."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.core.errors import SourceError
from pipeline.core.network import is_public
from stages.serving import public_http
from stages.serving.fetching import MAX_FETCHES, FetchPolicy, fetched
from stages.serving.public_http import resolved

HERE = FetchPolicy(allow_private=True)


class Handler(BaseHTTPRequestHandler):
    """Answers /ok; /to?URL leads to URL; /stall sends half of what it promises, /drip a byte now and then."""

    released = threading.Event()

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", query)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"clip" if path == "/ok" else b"cl")
        if path == "/stall":
            self.released.wait(30)
        while path == "/drip" and not self.released.wait(0.1):
            self.wfile.write(b"")
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def serve(host: str, family: socket.AddressFamily) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = family
        daemon_threads = True
        request_queue_size = 64

    server = Server((host, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with serve("127.0.0.1", socket.AF_INET) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"
        Handler.released.set()
        server.shutdown()


def read(address: str, policy: FetchPolicy) -> bytes:
    with fetched(address, policy) as path:
        return path.read_bytes()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%lo", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "::ffff:169.254.169.254",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0177.0.0.1", "0x7f000001", "127.1", "[::ffff:127.0.0.1]"]
)
def test_a_private_host_is_refused_however_it_is_written(host: str, web: str) -> None:
    port = web.rpartition(":")[2]
    with pytest.raises(SourceError, match=r"private network.*PERCEPTS_ALLOW_PRIVATE=1"):
        read(f"http://{host}:{port}/ok", FetchPolicy())


def test_the_operator_may_allow_private_hosts(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(f"{web}/ok", HERE) == b"clip"
    assert read(f"{web}/to?/ok", HERE) == b"clip"
    monkeypatch.setenv("PERCEPTS_ALLOW_PRIVATE", "1")
    assert read(f"{web}/ok", FetchPolicy.of_environment()) == b"clip"
    with serve("::1", socket.AF_INET6) as server:
        assert read(f"http://[::1]:{server.server_address[1]}/ok", HERE) == b"clip"
        server.shutdown()


def test_redirects_and_names_that_change_lead_nowhere(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="more than 5 times"):
        read(f"{web}/to?/to?/to?/to?/to?/to?/to?/ok", HERE)
    with pytest.raises(SourceError, match="something else than http"):
        read(f"{web}/to?file:///etc/passwd", HERE)
    # The first host counts as public here; what it redirects to does not.
    real, port = resolved, web.rpartition(":")[2]

    def first_is_public(host: str, port: int, *, allow_private: bool) -> list[str]:
        return ["127.0.0.1"] if host == "public.example" else real(host, port, allow_private=allow_private)

    with monkeypatch.context() as patched:
        patched.setattr(public_http, "resolved", first_is_public)
        assert read(f"http://public.example:{port}/ok", FetchPolicy()) == b"clip"
        with pytest.raises(SourceError, match="private network"):
            read(f"http://public.example:{port}/to?{web}/ok", FetchPolicy())
    # A name that resolves to a public address when it is checked, and to this machine the next time.
    answers = iter(["93.184.216.34", "127.0.0.1"])
    asked: list[Any] = []
    row = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(*row, (next(answers), port))])

    def connect(address: Any, timeout: float) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(SourceError, match="cannot be fetched"):
        read(f"http://rebound.example:{port}/ok", FetchPolicy())
    assert asked == [("93.184.216.34", int(port))]


def test_a_server_that_stalls_is_given_up(web: str) -> None:
    impatient = replace(HERE, max_seconds=2.0, max_stall_s=0.5)
    for path in ("/stall", "/drip"):
        with pytest.raises(SourceError, match=r"takes longer than the 2 s allowed here, or gives nothing for 0\.5 s"):
            read(f"{web}{path}", impatient)


def test_stalled_fetches_do_not_lock_out_the_others(web: str) -> None:
    """48 requests for a server that stalls: eight wait for it, the others are told, and a video itself is read."""
    # The others are told long before one of the eight is given up, on a slow machine too.
    policy = replace(HERE, max_stall_s=4.0, max_waiting_s=0.1)
    with ThreadPoolExecutor(48) as threads:
        stalled = [threads.submit(read, f"{web}/stall", policy) for _ in range(48)]
        assert read("data:;base64,Y2xpcA==", HERE) == b"clip"
        messages = [str(fetch.exception(timeout=240)) for fetch in stalled]
    assert sum(f"{MAX_FETCHES} others are being fetched; try again later" in message for message in messages) >= 24
    assert read(f"{web}/ok", HERE) == b"clip"


def test_a_large_video_in_the_question_is_decoded_in_parts() -> None:
    address = "data:;base64," + "AAAA" * (8 << 20)  # 24 MiB of video
    tracemalloc.start()
    with fetched(address, FetchPolicy()) as path:
        _, peak = tracemalloc.get_traced_memory()
        assert path.stat().st_size == 24 << 20
    tracemalloc.stop()
    assert peak < 8 << 20
