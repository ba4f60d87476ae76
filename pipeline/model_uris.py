"""Addresses of models: what MLflow knows under a name, as a directory on this machine.

Everybody may import this; MLflow itself is loaded only where an address is its own.
"""

from __future__ import annotations

from typing import Final

MODEL_SCHEMES: Final = ("models:/", "runs:/")


def resolve(uri: str) -> str:
    """The directory of the files of an MLflow model (`models:/...`, `runs:/...`); other addresses as they are.

    Raises:
        UsageError: MLflow knows no such model, or does not answer.
    """
    if not uri.startswith(MODEL_SCHEMES):
        return uri
    from pipeline.tracking import model_directory

    return model_directory(uri)
