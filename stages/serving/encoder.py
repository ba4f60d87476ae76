"""The pretrained encoder as an MLflow model (`loader_module`), from its safetensors file: nothing is unpickled.

    encoder = mlflow.pyfunc.load_model("models:/...")
    encoder.predict(x_NTD)        # windows of percepts (N, T, D) float32 -> representations (N, 2 * L * H) float32

Shapes: N windows, T frames of a window (as many as in training: a signature has one T), D frame dimensions, L layers,
H units.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from pipeline.core.files import join
from stages.models.config import MODEL_FILE
from stages.models.header import read_header

if TYPE_CHECKING:  # torch takes seconds to import, and a signature needs none of it
    from stages.models.pretrained import Pretrained

Array = npt.NDArray[np.float32]


class EncoderModel:
    """The model that MLflow calls."""

    def __init__(self, pretrained: Pretrained) -> None:
        self.pretrained = pretrained

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Array:
        """Returns the representations (N, 2 * L * H) of windows (N, T, D) of percepts that are not standardised.

        A representation is the final h, then c, of the lowest layer, then of the next ...

        Raises:
            ConfigError: the input has other dimensions.
        """
        x_NTD = np.asarray(model_input, np.float32)
        dim = self.pretrained.composite.config.dim
        if x_NTD.ndim != 3 or x_NTD.shape[1] < 1 or x_NTD.shape[2] != dim:
            raise ConfigError(f"the encoder reads windows of shape (N, T, {dim}); got {x_NTD.shape}")
        return self.pretrained.represent(x_NTD)


def _load_pyfunc(path: str) -> EncoderModel:
    """Loads the model for MLflow; `path` is the directory that holds model.safetensors, or that file."""
    from stages.models.pretrained import Pretrained

    return EncoderModel(Pretrained.load(path))


def example(uri: str) -> tuple[Array, Array]:
    """Returns an input and an output, zeros, for the signature: of the right shapes; the weights are not read."""
    config = read_header(join(uri, MODEL_FILE))["config"]
    x_NTD = np.zeros((1, config["num_frames_in"], config["dim"]), np.float32)
    return x_NTD, np.zeros((1, 2 * config["num_layers"] * config["num_units"]), np.float32)
