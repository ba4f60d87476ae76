"""Loads MLflow models logged when `stages.serving.encoder` had this name: MLflow keeps the module path of a loader."""

from stages.serving.encoder import _load_pyfunc

__all__ = ["_load_pyfunc"]
