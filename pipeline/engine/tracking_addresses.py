"""Addresses: of the MLflow of a run, which is opened here, and of artifacts in the MLflow file of a store.

The latter are absolute, and follow the store after a move or copy; one that was copied would otherwise show the
artifacts of the one that it was copied from, and write into it.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.core.errors import StoreError
from pipeline.core.files import is_local, join
from pipeline.core.model_uris import limit_waiting
from pipeline.engine.store import Store
from pipeline.engine.tracking_values import EXPERIMENT_PREFIX

ARTIFACTS: Final = "mlartifacts"
"""Directory of the store with MLflow's own files."""
SQLITE: Final = "sqlite:///"
LOCK_WAIT_S: Final = 5.0
"""Seconds that a move of the store waits for another process that writes to its MLflow file."""
COLUMNS: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Table and column of every absolute address in MLflow's schema."""
OWN: Final = (("tags", "value"), ("datasets", "dataset_source"))
"""The same for what percepts logged: the tags `store` and `artifact_uri`, and where a dataset lies."""


def open_mlflow(store: Store, uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Makes `uri` this process's MLflow; returns a client and the id of the experiment, which is begun if need be.

    Raises:
        Exception: whatever MLflow raises; StoreError of a store that was moved while its file was in use.
    """
    limit_waiting()
    if is_own(store, uri):
        follow_store(store.root)
    mlflow.set_tracking_uri(uri)
    with _only_beginner(uri):
        client = MlflowClient(uri)
        known = client.get_experiment_by_name(experiment)
        if known is None:
            try:
                return client, str(client.create_experiment(experiment, _location(store, uri, experiment)))
            except MlflowException:  # another run was faster
                known = client.get_experiment_by_name(experiment)
                if known is None:
                    raise
        return client, str(known.experiment_id)


def _location(store: Store, uri: str, experiment: str) -> str | None:
    """Returns where files go if a SQLite file tracks; None: a server decides."""
    if is_own(store, uri):
        return join(store.root, ARTIFACTS, experiment)
    return join(os.path.dirname(_database(uri)), ARTIFACTS, experiment) if uri.startswith(SQLITE) else None


def _database(uri: str) -> str:
    return uri.removeprefix(SQLITE).partition("?")[0]


def is_own(store: Store, uri: str) -> bool:
    """Returns whether an address is that of the file in the store."""
    return is_local(store.root) and uri == store.default_tracking_uri


@contextmanager
def _only_beginner(uri: str) -> Iterator[None]:
    """Waits while another process of this machine begins the same SQLite file, which MLflow does not survive."""
    if not uri.startswith(SQLITE):
        yield
        return
    directory = os.path.dirname(_database(uri)) or "."
    os.makedirs(directory, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def follow_store(root: str) -> int:
    """Rewrites addresses below the root that a local store had before, to its present `root`; returns their number.

    Raises:
        StoreError: the file is in use by another run, or is no MLflow database.
    """
    database = Path(root) / "mlflow.db"
    if not database.exists():
        return 0
    try:
        with closing(sqlite3.connect(database, timeout=LOCK_WAIT_S)) as connection, connection:
            return sum(_replace(connection, old, root) for old in _former_roots(connection, root))
    except sqlite3.Error as error:
        raise StoreError(f"{database} cannot be brought up to date after a move of the store: {error}") from error


def _former_roots(connection: sqlite3.Connection, root: str) -> set[str]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "experiments" not in tables:
        return set()
    mark = f"/{ARTIFACTS}/{EXPERIMENT_PREFIX}"
    locations = [str(location) for (location,) in connection.execute("SELECT artifact_location FROM experiments")]
    roots = {location.partition(mark)[0] for location in locations if mark in location}
    return set() if root in roots else roots


def _replace(connection: sqlite3.Connection, old: str, new: str) -> int:
    changed = 0
    for table, column in COLUMNS:
        changed += connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        ).rowcount
    for table, column in OWN:
        changed += connection.execute(
            f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?) > 0"
            + (" AND key IN ('store', 'artifact_uri')" if table == "tags" else ""),
            (old, new, old),
        ).rowcount
    return changed
