"""The MLflow of a run, which is opened here, and where its files go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.core.addresses.mlflow_addresses import ARTIFACTS, SQLITE, follow_store
from pipeline.core.addresses.model_uris import limit_waiting
from pipeline.core.files import is_local, join
from pipeline.core.outbox import locked
from pipeline.engine.store import Store


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
    with locked(directory):
        yield
