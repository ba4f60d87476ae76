"""What tests share: the folder of real clips, one Ray session, and the settings every test runs under."""

from __future__ import annotations

import os
import secrets
import signal
import socketserver
import sqlite3
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

# Read when torch is imported. A run in a test's own process has threads that would spin beside two other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Ray reads these when it is imported, which some tests do before they open a session.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
# A test of the metrics endpoint waits for them; the default is 10 s.
os.environ.setdefault("RAY_metrics_report_interval_ms", "3000")
# Containers set it. Each of the hundreds of processes that the tests start would compile every module of ours anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Headers and body of an answer are two packets, and the receipt of the first one is kept back for 40 ms by the client.
socketserver.StreamRequestHandler.disable_nagle_algorithm = True

# A shell has what it starts in the background ignore Ctrl-C, and the commands that tests interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import s3fs
import torch
from hypothesis import settings
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from cluster.session import Session, session

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

PAIR_OF_HOSTS, SHARED_RAY, RAY_HEAD = "the pair of hosts", "the shared Ray", "the head that takes jobs"
FIRST = (
    *(PAIR_OF_HOSTS, RAY_HEAD, SHARED_RAY),
    *("test_bench_gpu.py", "pipeline/test_left_behind.py", "pipeline/commands/test_ui.py", "test_chaos.py"),
    *("pipeline/engine/test_in_process.py", "pipeline/engine/test_team_server.py", "pipeline/test_bucket.py"),
)
"""Groups of files that take longest. They begin first, or the last of them would run alone."""

# A time is never asserted, and Hypothesis would: a machine with other work fails what a quiet one passes.
settings.register_profile("percepts", deadline=None)
settings.load_profile("percepts")


os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """One thread a process, whatever a run in this one has set: tests share the machine, and sums keep their order."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def node_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The node's cache of every test, and of the processes that it starts."""
    os.environ["PERCEPTS_CACHE"] = str(tmp_path_factory.mktemp("node-cache"))


@pytest.fixture(scope="session", autouse=True)
def mlflow_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow's tables, made by its 68 migrations once for all SQLite files of this process: 1.3 s of CPU a file.

    Nor does such a file wait for the disk at each of its thousands of commits: no test switches off the power.
    """
    if "mlflow" not in sys.modules:  # no test that was collected needs it
        yield
        return
    from mlflow.store.db import utils
    from mlflow.store.model_registry import sqlalchemy_store
    from sqlalchemy import Engine, event

    migrate, made = utils._initialize_tables, tmp_path_factory.mktemp("mlflow") / "tables.db"

    def copy_tables(source: str | Path, target: str | Path) -> None:
        with closing(sqlite3.connect(source)) as tables, closing(sqlite3.connect(target)) as file:
            tables.backup(file)

    def initialize(engine: Any) -> None:
        is_file = engine.url.get_backend_name() == "sqlite" and engine.url.database not in (None, "", ":memory:")
        if is_file and made.exists():
            copy_tables(made, engine.url.database)
            return
        migrate(engine)
        if is_file:
            copy_tables(engine.url.database, made)

    @event.listens_for(Engine, "connect")
    def write_behind(connection: Any, record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    with pytest.MonkeyPatch.context() as patch:
        for module in (utils, sqlalchemy_store):
            patch.setattr(module, "_initialize_tables", initialize)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips, hostile files, official lists; they belong to their owners and are never part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the test material in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Session]:
    """One local Ray of 2 CPUs with token authentication, for every test that needs one."""
    with session(None, str(ROOT), num_cpus=2) as opened:
        yield opened


@cache
def s3_application() -> Any:
    """S3 alone: which of AWS's services is meant by a request takes moto a quarter of the time."""
    return create_backend_app("s3")


class QuietRequestHandler(MotoRequestHandler):
    """Writes down no request."""

    def log_request(self, *_: object) -> None:
        """Does nothing."""


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a real S3 server on the loopback address, as `s3://name`."""
    server = make_server("127.0.0.1", 0, s3_application(), threaded=True, request_handler=QuietRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"percepts-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


@cache
def group_of(file: Path) -> str:
    """Returns the name of what one process of several runs: a file, or all files that share something.

    Of the pair of hosts there is one, and two processes would wait for one another. A Ray takes memory, and CPU
    though nothing runs on it: one process has it, not three.
    """
    if file.name.endswith("two_hosts.py"):
        return PAIR_OF_HOSTS
    text = file.read_text()
    if "head: dict[str, str]" in text:
        return RAY_HEAD
    return SHARED_RAY if "ray_session" in text else file.relative_to(ROOT / "tests").as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with the reason, what this machine cannot run; what takes longest begins first."""
    place = {group: number for number, group in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(group_of(item.path), len(place)))
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root, for network namespaces"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives files that share something to one process."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Groups(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(ROOT / super()._split_scope(nodeid))

    return Groups(config, log)
