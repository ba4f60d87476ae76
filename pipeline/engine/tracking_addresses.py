"""Addresses of artifacts in the MLflow file of a store, which are absolute: after a move or copy they follow the store.

A store that was copied would otherwise show the artifacts of the one that it was copied from, and write into it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from pipeline.core.errors import StoreError
from pipeline.engine.tracking_values import EXPERIMENT_PREFIX

ARTIFACTS: Final = "mlartifacts"
"""Directory of the store with MLflow's own files."""
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


def follow_store(root: str) -> int:
    """Rewrites addresses below the root that a local store had before, to its present `root`; returns their number.

    Raises:
        StoreError: the file is in use by another run, or is no MLflow database.
    """
    database = Path(root) / "mlflow.db"
    if not database.exists():
        return 0
    try:
        with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
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
