"""What can be known of a server's address before its client library is imported: one line, or silence."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.core.addresses import servers
from pipeline.core.addresses.servers import check_mlflow, why_no_connection
from pipeline.core.errors import UsageError


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a web server that knows no page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def closed_port() -> int:
    """A port of this machine that was free a moment ago, and at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:{closed}", "Connection refused"),
        ("http://me:s3cret@127.0.0.1:{closed}/mlflow", "Connection refused"),
        ("https://[::ffff:127.0.0.1]:{closed}", "Connection refused"),
        ("postgresql://me:s3cret@127.0.0.1:{closed}/runs", "Connection refused"),
        ("mysql+pymysql://127.0.0.1:{closed}/runs", "Connection refused"),
        ("http://", "names no host"),
        ("http://[::1", "Invalid IPv6"),
        ("http://127.0.0.1:99999", "range"),
        ("http://no-such-host.invalid", ""),
        ("http://" + "a" * 70 + ".x", ""),
        ("nope://x", "nope://"),
        ("databricks", "DATABRICKS_HOST"),
        ("databricks://profile", "DATABRICKS_HOST"),
        ("mlruns", "folders no longer"),
        ("file:///tmp/mlruns", "folders no longer"),
        ("sqlite:", "sqlite:///PATH"),
        ("sqlite:///{folder}", "directory"),
        ("sqlite:///{folder}/text", "no SQLite database"),
        ("sqlite:///{folder}/text/x.db", "Not a directory"),
    ],
)
def test_an_address_without_a_server_is_one_line(
    uri: str, reason: str, tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "text").write_text("no database, and longer than its header")
    with pytest.raises(UsageError) as refused:
        check_mlflow(uri.format(closed=closed_port, folder=tmp_path))
    said = str(refused.value)
    assert said.startswith("no MLflow answers at --tracking-uri '")
    assert reason in said
    assert "\n" not in said
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:{open}",
        "http://me:word@localhost:{open}/mlflow",
        "postgresql+psycopg://me:word@127.0.0.1:{open}/runs?sslmode=require",
        "postgresql:///runs",
        "postgresql://me@127.0.0.1:{closed}/runs?host=/var/run/postgresql",
        "sqlite:///{folder}/new/mlflow.db",
        "sqlite:///{folder}/a%20b%3F.db",
        "databricks",
        "databricks://profile",
        "file:///tmp/mlruns",
        "mlruns",
    ],
)
def test_of_what_may_answer_nothing_is_said(
    uri: str, tmp_path: Path, port: int, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "https://workspace.example")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with closing(sqlite3.connect(tmp_path / "a b?.db")) as connection:
        connection.execute("CREATE TABLE runs (id)")
    check_mlflow(uri.format(open=port, closed=closed_port, folder=tmp_path))


def test_behind_a_proxy_nothing_is_known(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    check_mlflow(f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UsageError, match="refused"):
        check_mlflow(f"http://127.0.0.1:{closed_port}")


@pytest.mark.parametrize(
    ("said", "reason"), [(b"", "answers nothing for"), (b"SSH-2.0-x\r\n", "no web server (BadStatus")]
)
def test_something_else_that_listens_is_no_mlflow(
    said: bytes, reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if not said:
        monkeypatch.setattr(servers, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            held = []
            while True:
                held.append(server.accept()[0])
                held[-1].sendall(said)

        Thread(target=talk, daemon=True).start()
        with pytest.raises(UsageError) as refused:
            check_mlflow(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert reason in str(refused.value)


def test_a_connection_is_made_to_any_address_of_a_name(port: int) -> None:
    assert why_no_connection("localhost", port) == ""  # ::1 comes first where there is IPv6, and nothing listens there
