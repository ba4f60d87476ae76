"""Opens MLflow's pages on the runs of a store, on this machine's loopback address only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Final
from urllib.request import Request, urlopen

from pipeline.core.addresses.mlflow_addresses import EXPERIMENT_PREFIX, runs_page
from pipeline.core.addresses.model_uris import store_tracking_uri
from pipeline.core.errors import ConfigError, UsageError
from pipeline.core.secrets import public
from pipeline.engine.store import DEFAULT_STORE
from pipeline.options.command_line import parse_options

HOST: Final = "127.0.0.1"
MAX_EXPERIMENTS: Final = 1000
QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes for language models' jobs
    "PYTHONWARNINGS": "ignore",
}
"""Environment of the server."""
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
        _open(f"{uri.rstrip('/')}/{runs_page(())}", options.browser)
        return 0
    port = _free_port(options.port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    # No argument: that of a database may hold a password, and everyone sees the arguments of a process.
    environment = {**os.environ, **QUIET, "MLFLOW_BACKEND_STORE_URI": uri}
    signal.signal(signal.SIGTERM, _interrupt)  # or the server would outlive this process
    quiet = subprocess.DEVNULL
    with (
        TemporaryDirectory(prefix="percepts-ui-") as temporary,  # it leaves a lock for each database
        subprocess.Popen(
            command, env={**environment, "TMPDIR": temporary}, stdout=quiet, stderr=quiet, start_new_session=True
        ) as server,
    ):
        try:
            _wait(server, port)
            server_uri = f"http://{HOST}:{port}"
            _open(f"{server_uri}/{runs_page(_experiments(server_uri))}", options.browser)
            try:
                return server.wait()
            except KeyboardInterrupt:
                return 130  # Ctrl-C is how it ends: nothing was left undone that had to be said
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)  # it has processes of its own


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _open(address: str, browser: bool) -> None:
    print(public(address), flush=True)
    if browser:
        webbrowser.open(address)


def _experiments(server_uri: str) -> list[str]:
    """Returns the ids of the experiments of recipes. Raises UsageError if the server does not answer as MLflow does."""
    question = {"max_results": MAX_EXPERIMENTS, "filter": f"name LIKE '{EXPERIMENT_PREFIX}%'"}
    request = Request(
        f"{server_uri}/api/2.0/mlflow/experiments/search",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urlopen(request, timeout=START_SECONDS) as answer:
            return [str(experiment["experiment_id"]) for experiment in json.load(answer).get("experiments", [])]
    except (OSError, ValueError) as error:
        raise UsageError(f"no MLflow answers at {server_uri}: {error}") from error


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
