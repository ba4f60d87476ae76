"""HTTP for addresses that strangers give: only public hosts, whatever their names, numbers and redirects lead to.

A name is resolved once, every address that it has is checked, and the connection goes to what was checked: a name that
resolves to another address the next time (DNS rebinding) gains nothing. The same holds for 2130706433, 0177.0.0.1 and
[::ffff:127.0.0.1], and for redirects, whose targets are opened in the same way.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from pipeline.core.errors import SourceError
from pipeline.core.network import is_public

MAX_REDIRECTS: Final = 5
REDIRECTS: Final = (301, 302, 303, 307, 308)
CHUNK_BYTES: Final = 1 << 20
HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "percepts"}


def resolved(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Returns the IP addresses of a host.

    Raises:
        SourceError: one of them is not public, and `allow_private` is false.
        OSError: it has none.
    """
    ips = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not allow_private and not all(map(is_public, ips)):
        raise SourceError("is on this machine or in a private network, which is not opened here")
    return ips


@contextmanager
def _connection(url: str, *, allow_private: bool, stall_s: float) -> Iterator[tuple[http.client.HTTPConnection, str]]:
    """Connects to the host of a URL; gives the connection, and the path to request."""
    parts = urlsplit(url)
    is_tls = parts.scheme.lower() == "https"
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise SourceError("leads to something else than http: and https:")
    port = parts.port or (443 if is_tls else 80)
    sock: socket.socket | None = None
    for ip in resolved(parts.hostname, port, allow_private=allow_private):
        try:
            sock = socket.create_connection((ip, port), timeout=stall_s)
            break
        except OSError as error:
            failure = error
    if sock is None:
        raise failure
    if is_tls:
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname)
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=stall_s)
    connection.sock = sock
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
    with closing(connection):
        yield connection, path


def read_public(url: str, *, allow_private: bool, max_seconds: float, stall_s: float) -> Iterator[bytes]:
    """Yields the bytes behind an http(s) URL as they come.

    max_seconds: after so long the connection is cut, wherever it is: in its handshake, its headers or its body.
    stall_s: so long may nothing come.

    Raises:
        SourceError: the URL, or one that it redirects to, is not of a public host; the server does not give it.
        TimeoutError, OSError, http.client.HTTPException: the connection fails, or takes too long.
    """
    deadline = time.monotonic() + max_seconds
    for _ in range(MAX_REDIRECTS + 1):
        with _connection(url, allow_private=allow_private, stall_s=stall_s) as (connection, path):
            cut = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (connection.sock,))
            cut.daemon = True
            cut.start()
            try:
                connection.request("GET", path, headers=HEADERS)
                response = connection.getresponse()
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or location is None:
                    if response.status != http.client.OK:
                        raise SourceError(f"cannot be fetched (HTTP {response.status})")
                    remaining = response.length
                    while chunk := response.read1(CHUNK_BYTES):
                        remaining = None if remaining is None else remaining - len(chunk)
                        yield chunk
                    if remaining or time.monotonic() > deadline:
                        raise TimeoutError("the connection ended early")
                    return
                url = urljoin(url, location)
            except OSError as error:
                if time.monotonic() > deadline:  # a connection that was cut fails in whatever it was doing
                    raise TimeoutError("the connection was cut") from error
                raise
            finally:
                cut.cancel()
    raise SourceError(f"leads from one address to the next more than {MAX_REDIRECTS} times")


def _cut(sock: socket.socket) -> None:
    """Ends a connection under the thread that reads from it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended
