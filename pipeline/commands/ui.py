"""Opens MLflow's pages on the runs of a store, on this machine's loopback address only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.commands.command_line import parse_options
from pipeline.core.errors import ConfigError, UsageError
from pipeline.core.model_uris import store_tracking_uri
from pipeline.engine.store import DEFAULT_STORE

HOST: Final = "127.0.0.1"
PAGE: Final = "?workflowType=machine_learning#/experiments"
START_SECONDS: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class UiOptions:
    """Open MLflow's pages on the runs of a store; Ctrl-C ends them."""

    store: str = DEFAULT_STORE
    """Directory of the store whose runs are shown."""
    port: int = 5000
    """Port on the loopback address; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser; --no-browser prints its address only."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"--port is {self.port}; give 0 to 65535")


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts ui` until it is interrupted. Returns the exit status."""
    options = parse_options(UiOptions, arguments, prog="percepts ui")
    uri = store_tracking_uri(options.store)
    if uri.startswith("http"):
        print(f"{uri}/{PAGE}")
        if options.browser:
            webbrowser.open(f"{uri}/{PAGE}")
        return 0
    port = _free_port(options.port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    # No argument: that of a database may hold a password, and everyone sees the arguments of a process.
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait(server, port)
            address = f"http://{HOST}:{port}/{PAGE}"
            print(address, flush=True)
            if options.browser:
                webbrowser.open(address)
            return server.wait()
        finally:
            server.terminate()


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(f"port {port} of {HOST} is in use; give another --port, or 0 for a free one") from error
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Waits until the server answers. Raises UsageError if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise UsageError(f"MLflow's server does not start on port {port}; try another --port")
