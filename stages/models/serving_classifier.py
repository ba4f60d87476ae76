"""Loads MLflow models logged when `stages.serving.classifier` had this name: MLflow keeps a loader's module path."""

from stages.serving.classifier import _load_pyfunc

__all__ = ["_load_pyfunc"]
