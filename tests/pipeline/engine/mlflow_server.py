"""A real MLflow server in a process of its own, for tests that kill it or give it a password."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from werkzeug.serving import make_server


@dataclass
class Server:
    """A real MLflow server in a process of its own, which can be killed and started again at the same port."""

    directory: Path
    port: int = 0
    pids: list[int] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from mlflow.server import (
            app,
        )  # takes 1.7 s of CPU to import, which other tests of this process need not wait for

        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
        pid = os.fork()
        if pid == 0:
            os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{self.directory}/mlflow.db"
            os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(self.directory / "artifacts")
            os.environ.pop("PYTEST_CURRENT_TEST", None)
            warnings.simplefilter("ignore")
            logging.disable()
            make_server("127.0.0.1", self.port, app, threaded=True).serve_forever()
        self.pids.append(pid)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)

    def kill(self) -> None:
        pid = self.pids.pop()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
