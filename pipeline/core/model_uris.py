"""Addresses of models: a model in MLflow is resolved to a directory on this machine.

Any package may import this. MLflow is imported only for an address of its own.
"""

from __future__ import annotations

import os
from typing import Final

from pipeline.core.errors import UsageError
from pipeline.core.files import absolute, exists, join

MODEL_SCHEMES: Final = ("models:/", "runs:/")
MODEL_DIRECTORY: Final = "model"
"""Directory of the model's own files within an MLflow model."""
TRACKING_VARIABLE: Final = "MLFLOW_TRACKING_URI"
HOME_STORE: Final = ".percepts"
"""The store whose MLflow is used where none is named: the default of --store."""


def store_tracking_uri(store: str = HOME_STORE) -> str:
    """Returns the MLflow of MLFLOW_TRACKING_URI if that is set, else that of a store on this machine's disk.

    Raises:
        UsageError: the variable is not set, and the store has no MLflow file.
    """
    if named := os.environ.get(TRACKING_VARIABLE):
        return named
    database = join(absolute(store), "mlflow.db")
    if "://" in database or not exists(database):
        raise UsageError(
            f"there is no MLflow: {TRACKING_VARIABLE} is not set, and {database} does not exist; set the variable or "
            "give --store a store with runs"
        )
    return f"sqlite:///{database}"


def resolve(uri: str, store: str = HOME_STORE) -> str:
    """Returns the directory of an MLflow model's files (`models:/...`, `runs:/...`), and other addresses as they are.

    store: the store whose MLflow is used if MLFLOW_TRACKING_URI is not set.

    Raises:
        UsageError: MLflow knows no such model, or does not answer; the message says which MLflow was used.
    """
    if not uri.startswith(MODEL_SCHEMES):
        return uri
    tracking_uri = store_tracking_uri(store)
    import mlflow

    try:
        path = mlflow.artifacts.download_artifacts(uri, tracking_uri=tracking_uri)
    except mlflow.exceptions.MlflowException as error:
        raise UsageError(f"MLflow at {tracking_uri} has no model {uri!r}: {' '.join(str(error).split())}") from error
    return join(path, "data", MODEL_DIRECTORY)
