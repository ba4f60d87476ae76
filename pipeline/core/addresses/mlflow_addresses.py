"""The MLflow file of a store: its address, and the addresses of artifacts in it, which follow a moved or copied store.

A store that was copied would otherwise show the artifacts of the one that it was copied from, and write into it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from pipeline.core.errors import StoreError

EXPERIMENT_PREFIX: Final = "percepts/"
"""The beginning of the name of every experiment, before the name of the recipe."""
FOR_TRAINING: Final = "workflowType=machine_learning"
"""The part of an address with which MLflow shows its pages for training models, and not those for language models."""
DATABASE: Final = "mlflow.db"
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
OF_STORE: Final = " AND key IN ('store', 'artifact_uri')"
OF_NOTE: Final = " AND key = 'mlflow.note.content'"
OWN: Final = (
    ("tags", "value", "", OF_STORE),
    ("tags", "value", "file://", OF_NOTE),
    ("model_versions", "description", "file://", ""),
    ("datasets", "dataset_source", "", ""),
)
"""The same for what percepts logged: with what stands before an address, and a condition on the row."""


def run_page(experiment_id: str, run_id: str) -> str:
    """Returns the page of a run, to be put behind the address at which MLflow's pages are served."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?{FOR_TRAINING}"


def runs_page(experiment_ids: Sequence[str]) -> str:
    """Returns the page with the runs of experiments, as `run_page` does; the list of experiments if there are none."""
    if len(experiment_ids) > 1:
        return f"#/compare-experiments/s?{FOR_TRAINING}&experiments={quote(json.dumps(list(experiment_ids)))}"
    place = f"#/experiments/{experiment_ids[0]}/runs" if experiment_ids else "#/experiments"
    return f"{place}?{FOR_TRAINING}"


def sqlite_uri(database: str) -> str:
    """Returns the address of an SQLite file for SQLAlchemy, which decodes the path and begins a query at `?`."""
    return SQLITE + database.replace("%", "%25").replace("?", "%3F")


def follow(tracking_uri: str) -> str:
    """Returns the address of an MLflow as it is; if it is the file of a moved store, addresses in it are mended.

    Raises:
        StoreError: as `follow_store`.
    """
    path = Path(unquote(tracking_uri.removeprefix(SQLITE)))
    if tracking_uri.startswith(SQLITE) and path.name == DATABASE:
        follow_store(os.path.abspath(path.parent))
    return tracking_uri


def follow_store(root: str) -> int:
    """Rewrites addresses below the root that a local store had before, to its present `root`; returns their number.

    Raises:
        StoreError: the file is in use by another run, or is no MLflow database.
    """
    database = Path(root) / DATABASE
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
    for table, column, before, condition in OWN:
        changed += connection.execute(
            f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?) > 0{condition}",
            (before + old, before + new, before + old),
        ).rowcount
    return changed
