"""MLflow for a team as docs/cluster.md sets it up: PostgreSQL, a bucket for artifacts, and a password for each user."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import pytest
import s3fs

from pipeline.engine.store import Store
from tests.pipeline.engine.tracked_runs import plan_of, run
from tests.pipeline.ray_head import free_port


def server_programs() -> Path:
    """The directory of PostgreSQL's own programs, which Debian keeps out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if os.geteuid() != 0 or not found:
        pytest.skip("needs root, and PostgreSQL (Debian package postgresql)")
    for package in ("psycopg", "flask_wtf"):
        pytest.importorskip(package)
    return found[-1].parent


@contextmanager
def postgresql(password: str) -> Iterator[int]:
    """A PostgreSQL with the databases mlflow and mlflow_auth; yields its port."""
    programs, port, user = server_programs(), free_port(), pwd.getpwnam("postgres")
    # It refuses root, and its user cannot enter a test's own directory.
    folder = Path(tempfile.mkdtemp(prefix="percepts-pg-", dir="/tmp"))
    secret = folder / "password"
    secret.write_text(password)
    for path in (folder, secret):
        os.chown(path, user.pw_uid, user.pw_gid)

    def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(programs / program), *arguments]
        return subprocess.Popen(
            command, user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd=folder, stdout=subprocess.DEVNULL
        )

    data = str(folder / "data")
    made = start("initdb", "-D", data, "-U", "mlflow", f"--pwfile={secret}", "-A", "scram-sha-256", "--no-sync")
    assert made.wait() == 0
    server = start("postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F")
    try:
        make_databases(port, password)
        yield port
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def make_databases(port: int, password: str) -> None:
    import psycopg

    deadline = time.monotonic() + 240
    while True:
        try:
            address = f"host=127.0.0.1 port={port} user=mlflow dbname=postgres"
            with psycopg.connect(address, password=password, autocommit=True) as connection:
                for name in ("mlflow", "mlflow_auth"):
                    connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload, unused-ignore]
                return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextmanager
def team_server(database_port: int, database_password: str, bucket: str, admin: str, folder: Path) -> Iterator[str]:
    """MLflow's server by the documented settings; yields its address."""
    database = f"postgresql://mlflow:{database_password}@127.0.0.1:{database_port}"
    settings, port = folder / "auth.ini", free_port()
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = {database}/mlflow_auth\nadmin_username = admin\nadmin_password = {admin}\n"
        "auth_cache_ttl_seconds = 60\n"
    )
    settings.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_AUTH_CONFIG_PATH": str(settings),
        "MLFLOW_BACKEND_STORE_URI": f"{database}/mlflow",
        "MLFLOW_ARTIFACTS_DESTINATION": f"{bucket}/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        # Processes for jobs of language models, which only cost seconds here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server, folder / "server.log")
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{address}/health", timeout=30).close()
            return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)


def test_a_run_is_recorded_by_a_user_with_a_password_and_by_nobody_else(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database_password, admin_password = secrets.token_hex(16), secrets.token_hex(16)
    store = Store.open(str(tmp_path / "store"), create=True)
    try:
        with (
            postgresql(database_password) as port,
            team_server(port, database_password, s3_bucket, admin_password, tmp_path) as address,
        ):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{address}/api/2.0/mlflow/experiments/search?max_results=1", timeout=30)
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", admin_password)
            tracked = run(plan_of(0.5), store, address)
            assert tracked.missing == ""
            parent = tracked.parent
            assert parent.info.status == "FINISHED"
            assert tracked.metrics.items() <= parent.data.metrics.items()
            assert set(tracked.children()) == {"count", "judge", "foresee", "draw"}
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    assert urlsplit(parent.info.artifact_uri).scheme == "mlflow-artifacts"
    there = s3fs.S3FileSystem().find(f"{s3_bucket.removeprefix('s3://')}/mlflow")
    assert any(name.endswith("manifest.json") for name in there), there
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert kept
    for password in (database_password, admin_password):
        assert not [path for path in kept if password.encode() in path.read_bytes()]
