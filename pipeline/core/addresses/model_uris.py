"""Addresses of models: a model in MLflow is resolved to a directory on this machine.

Any package may import this. MLflow is imported only for an address of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import unquote

from pipeline.core.addresses.mlflow_addresses import DATABASE, follow, sqlite_uri
from pipeline.core.addresses.servers import check_mlflow
from pipeline.core.errors import UsageError
from pipeline.core.files import absolute, exists, join
from pipeline.core.secrets import masked, real

MODEL_SCHEMES: Final = ("models:/", "runs:/")
MODEL_DIRECTORY: Final = "model"
"""Directory of the model's own files within an MLflow model."""
TRACKING_VARIABLE: Final = "MLFLOW_TRACKING_URI"
HOME_STORE: Final = ".percepts"
"""The store whose MLflow is used where none is named: the default of --store."""

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported: it reports to its makers

QUIET: Final = ("mlflow.system_metrics", "mlflow.store.db.utils", "mlflow.utils.rest_utils", "urllib3.connectionpool")
"""Loggers that print a traceback or a line of their own for what is said here in one."""


def limit_waiting() -> None:
    """Makes MLflow try a server or database that does not answer for seconds, and print nothing of its own."""
    import mlflow.store.db.utils

    for name, value in (("MAX_RETRIES", "2"), ("TIMEOUT", "30"), ("BACKOFF_FACTOR", "1")):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password that it may hold
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    mlflow.store.db.utils.MAX_RETRY_COUNT = 2  # it tries 15 times with growing pauses: almost an hour


def in_one_line(error: BaseException) -> str:
    """Returns one line on what MLflow, SQLAlchemy or a server said, without secrets."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    text = str(error).partition("\n[SQL")[0].partition("(Background on this error")[0]
    return masked(" ".join(text.split()))[:200] or type(error).__name__


def store_tracking_uri(store: str = HOME_STORE) -> str:
    """Returns the MLflow of MLFLOW_TRACKING_URI if that is set, else that of a store on this machine's disk.

    Raises:
        UsageError: nothing listens at its address, or it is not set and the store has no MLflow file.
    """
    if named := os.environ.get(TRACKING_VARIABLE):
        check_mlflow(named, TRACKING_VARIABLE)
        return follow(real(named))
    database = join(absolute(store), DATABASE)
    if "://" in database or not exists(database):
        raise UsageError(
            f"there is no MLflow: {TRACKING_VARIABLE} is not set, and {database} does not exist; set the variable or "
            "give --store a store with runs"
        )
    return follow(sqlite_uri(database))


def check_there(tracking_uri: str, model: str) -> None:
    """Raises UsageError for an SQLite file that does not exist: MLflow would begin one in order to look into it."""
    database = unquote(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and not exists(database):
        raise UsageError(f"there is no model {model!r}: {database} does not exist; give the MLflow that has it")


@contextmanager
def _made_default(tracking_uri: str) -> Iterator[None]:
    """Makes an MLflow the default meanwhile.

    MLflow looks up models in the registry of its default, whatever `tracking_uri` a call is given. Without a default it
    would begin a file in the working directory, and find nothing there.
    """
    import mlflow

    before = os.environ.get(TRACKING_VARIABLE)
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # which also removes the variable
        if before is not None:
            os.environ[TRACKING_VARIABLE] = before


def resolve(uri: str, store: str = HOME_STORE) -> str:
    """Returns the directory of an MLflow model's files (`models:/...`, `runs:/...`), and other addresses as they are.

    store: the store whose MLflow is used if MLFLOW_TRACKING_URI is not set.

    Raises:
        UsageError: MLflow knows no such model, or does not answer; the message says which MLflow was used.
    """
    if not uri.startswith(MODEL_SCHEMES):
        return uri
    tracking_uri = store_tracking_uri(store)
    check_there(tracking_uri, uri)
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    limit_waiting()
    try:
        with _made_default(tracking_uri):
            path = mlflow.artifacts.download_artifacts(uri)
    except (mlflow.exceptions.MlflowException, SQLAlchemyError, OSError) as error:
        raise UsageError(f"MLflow at {masked(tracking_uri)} has no model {uri!r}: {in_one_line(error)}") from error
    return join(path, "data", MODEL_DIRECTORY)
