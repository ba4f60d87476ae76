"""A finetuned classifier as an MLflow model (`loader_module`), from its safetensors file: nothing is unpickled.

    classifier = mlflow.pyfunc.load_model("models:/...")
    classifier.predict(x_NTD)      # windows of percepts (N, T, D) float32 -> probabilities (N, C) float32

Shapes: N windows, T frames of a window (any number), D percept dimension, C classes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import ConfigError
from pipeline.files import join
from stages.models.trained import TrainedClassifiers
from stages.models.weights import MODEL_FILE

Array = npt.NDArray[np.float32]


class ClassifierModel:
    """What MLflow calls."""

    def __init__(self, trained: TrainedClassifiers) -> None:
        assert trained.classifier.config.num_groups == 1, "a model that is served is one classifier"
        self.trained = trained

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C actions, in the order of the columns of `predict`."""
        return self.trained.class_names

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Array:
        """Windows of percepts as the extractor gives them, not standardised, (N, T, D) -> probabilities (N, C).

        Raises:
            ConfigError: the input has other dimensions.
        """
        x_NTD = np.asarray(model_input, np.float32)
        dim = self.trained.classifier.config.dim
        if x_NTD.ndim != 3 or x_NTD.shape[1] < 1 or x_NTD.shape[2] != dim:
            raise ConfigError(f"the classifier reads windows of shape (N, T, {dim}); got {x_NTD.shape}")
        x_TND = self.trained.standardise(torch.tensor(x_NTD)).transpose(0, 1).contiguous()
        probabilities_NC: Array = self.trained.probabilities(x_TND)[0].numpy()
        return probabilities_NC


def _load_pyfunc(path: str) -> ClassifierModel:
    """MLflow's entry: `path` is the directory that holds model.safetensors, or that file."""
    uri = path if path.endswith(".safetensors") else join(path, MODEL_FILE)
    return ClassifierModel(TrainedClassifiers.load(uri))


def example(uri: str) -> tuple[Array, Array]:
    """An input and its output, for the signature: one window of frames at the mean."""
    model = _load_pyfunc(uri)
    x_NTD = np.tile(model.trained.standardise.mean_D, (1, model.trained.num_frames, 1))
    return x_NTD, model.predict(x_NTD)
