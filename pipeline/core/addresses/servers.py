"""The look at a server's address before the client library of MLflow or Ray is imported, which takes seconds."""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.metadata import entry_points
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from pipeline.core.addresses.mlflow_addresses import SQLITE
from pipeline.core.errors import UsageError
from pipeline.core.secrets import public, real

WAIT_S: Final = 4.0
"""Seconds that a connection may take to come about, over all addresses of a name."""
ANSWER_S: Final = 10.0
"""Seconds without an answer after which a web server counts as none."""
SETTINGS: Final = b"\x04"
"""The type of the frame that either side of HTTP/2, and so of gRPC, sends first: the fourth byte of its header."""
FRAME_HEADER_BYTES: Final = 9
HTTP2_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + b"\0" * 5
"""The preface of a client of HTTP/2, with empty settings."""
PORTS: Final = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Kind of address of an MLflow -> the port where none is named."""
DATABRICKS: Final = ("databricks", "databricks-uc", "uc")
"""Addresses, or what they begin with, whose server stands in the settings of Databricks."""
SQLITE_HEADER: Final = b"SQLite format 3\0"


def why_no_connection(host: str, port: int) -> str:
    """Returns why no connection to a TCP port comes about, such as "Connection refused"; empty where one does."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        socket.create_connection((host, port), timeout=max(1.0, WAIT_S / len(places))).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: no name in the sense of the domain name system
        return str(getattr(error, "strerror", None) or error)
    return ""


def why_no_web_server(scheme: str, host: str, port: int) -> str:
    """Returns why a web server does not answer at all, whatever its answer; empty where it does."""
    if reason := why_no_connection(host, port):
        return reason
    unchecked = ssl.create_default_context()  # nothing is sent that a stranger might not read
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    kind = partial(HTTPSConnection, context=unchecked) if scheme == "https" else HTTPConnection
    try:
        with closing(kind(host, port, timeout=ANSWER_S)) as connection:
            connection.request("GET", "/health")
            connection.getresponse()
    except TimeoutError:
        return f"something listens there and answers nothing for {ANSWER_S:g} s"
    except (OSError, HTTPException) as error:
        return f"what listens there is no web server ({type(error).__name__}: {error})"
    return ""


def why_no_grpc_server(host: str, port: int) -> str:
    """Returns why no gRPC server answers in plain text, as a Ray head does; empty where one does.

    Ray waits for minutes for a port that something else listens at, such as that of its own dashboard.
    """
    if reason := why_no_connection(host, port):
        return reason
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
            connection.sendall(HTTP2_GREETING)
            answer = connection.recv(FRAME_HEADER_BYTES, socket.MSG_WAITALL)
    except TimeoutError:
        return f"something listens there and answers nothing for {ANSWER_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return "" if answer[3:4] == SETTINGS else "what listens there is no Ray head"


def check_mlflow(uri: str, name: str = "--tracking-uri") -> None:
    """Checks that something listens at the address of an MLflow, or that its file is or can become one.

    Of what a proxy reaches, a plugin, a folder or a socket nothing is said here.

    name: what the address was given by.

    Raises:
        UsageError: nothing listens there, or MLflow knows no such address.
    """
    if reason := _why_no_mlflow(real(uri)):
        raise UsageError(f"no MLflow answers at {name} {public(uri)!r}: {reason}")


def _why_no_mlflow(uri: str) -> str:
    if uri.startswith(SQLITE):
        return _why_no_database(unquote(uri.removeprefix(SQLITE).partition("?")[0]))
    scheme, separator, _ = uri.partition("://")
    kind = scheme.partition("+")[0].lower()
    if kind not in PORTS:
        return _why_no_other(uri, scheme if separator else "")
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or PORTS[kind]
    except ValueError as error:
        return str(error)
    if kind in ("http", "https"):
        proxies = getproxies()
        if host and (proxies.get(kind) or proxies.get("all")) and not proxy_bypass(host):
            return ""
        return why_no_web_server(kind, host, port) if host else "it names no host"
    if not host or "host=" in parts.query or "unix_socket=" in parts.query:  # a socket of this machine
        return ""
    return why_no_connection(host, port)


def _why_no_other(uri: str, scheme: str) -> str:
    """Returns why an address of another kind than a server's or a file of SQLite is wrong; empty where it may be right.

    scheme: what stands before `://`; empty where that is missing.
    """
    if (scheme or uri) in DATABRICKS:
        settings = os.environ.get("DATABRICKS_CONFIG_FILE", "~/.databrickscfg")
        is_set = any(name.startswith("DATABRICKS_") for name in os.environ)
        is_known = is_set or os.path.exists(os.path.expanduser(settings))
        return "" if is_known else f"neither DATABRICKS_HOST nor {settings} says where Databricks is"
    if uri.startswith("sqlite"):
        return "the address of an SQLite file is sqlite:///PATH"
    if scheme in ("", "file"):
        is_allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
        return "" if is_allowed else "MLflow keeps runs in folders no longer: give sqlite:///PATH of a file"
    is_plugin = bool(entry_points(group="mlflow.tracking_store", name=scheme))
    return "" if is_plugin else f"MLflow knows no addresses that begin with {scheme}://"


def _why_no_database(path: str) -> str:
    if os.path.isdir(path):
        return "it is a directory"
    try:
        with open(path, "rb") as file:
            is_database = file.read(len(SQLITE_HEADER)) in (b"", SQLITE_HEADER)
        return "" if is_database else "the file is no SQLite database"
    except FileNotFoundError:  # MLflow begins it
        return ""
    except OSError as error:
        return error.strerror or str(error)
