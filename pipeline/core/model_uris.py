"""Addresses of models: a model in MLflow is resolved to a directory on this machine.

Any package may import this. MLflow is imported only for an address of its own.
"""

from __future__ import annotations

from typing import Final

from pipeline.core.errors import UsageError
from pipeline.core.files import join

MODEL_SCHEMES: Final = ("models:/", "runs:/")
MODEL_DIRECTORY: Final = "model"
"""Directory of the model's own files within an MLflow model."""


def resolve(uri: str) -> str:
    """Returns the directory of an MLflow model's files (`models:/...`, `runs:/...`), and other addresses as they are.

    Raises:
        UsageError: MLflow knows no such model, or does not answer.
    """
    if not uri.startswith(MODEL_SCHEMES):
        return uri
    import mlflow

    try:
        return join(mlflow.artifacts.download_artifacts(uri), "data", MODEL_DIRECTORY)
    except mlflow.exceptions.MlflowException as error:
        raise UsageError(f"MLflow has no model {uri!r}: {' '.join(str(error).split())}") from error
