"""A finetuned classifier as an MLflow model (`loader_module`) that takes videos; nothing is unpickled.

    classifier = mlflow.pyfunc.load_model("models:/...")
    classifier.predict(["https://example.org/clip.mp4"])

    mlflow models serve -m models:/... --env-manager local
    curl http://127.0.0.1:5000/invocations -H 'Content-Type: application/json' \\
        -d '{"dataframe_records": [{"video": "https://example.org/clip.mp4"}]}'

A video is an http(s), s3 or `data:` URL. Local paths are refused, since a server answers every client that reaches it;
set PERCEPTS_VIDEO_FOLDER to a folder to allow those below it. So are hosts of this machine and of private networks,
unless PERCEPTS_ALLOW_PRIVATE is 1. PERCEPTS_VIDEO_MAX_BYTES bounds a video (1 GiB), and PERCEPTS_CONVNET_WEIGHTS names
the convnet's weights where they are those of no package.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import ConfigError, PerceptsError
from stages.models.header import model_file, read_header
from stages.serving.fetching import FetchPolicy, fetched
from stages.serving.video_answer import NUM_TOP, VideoAnswer

if TYPE_CHECKING:  # torch takes seconds to import, and a signature needs none of it
    from stages.finetuning.trained_classifiers import TrainedClassifiers
    from stages.serving.video_classifier import VideoClassifier

COLUMN = "video"
WEIGHTS_VARIABLE = "PERCEPTS_CONVNET_WEIGHTS"


class ServedClassifier:
    """The model that MLflow calls. The convnet is loaded at the first video."""

    def __init__(self, trained: TrainedClassifiers) -> None:
        self.trained = trained
        self._classifier: VideoClassifier | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the C actions."""
        return self.trained.class_names

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Returns an answer for every video: `video`, `error` (empty without one), and `VideoAnswer.to_json`.

        A video that cannot be read does not affect the others: its `error` says why.

        model_input: data frame with the column `video`, or a list of addresses.

        Raises:
            ConfigError: the input is something else; or the extractor of the training cannot be built here.
        """
        policy = FetchPolicy.of_environment()
        return [self._answer(address, policy) for address in _addresses(model_input)]

    def _answer(self, address: Any, policy: FetchPolicy) -> dict[str, Any]:
        if self._classifier is None:
            from stages.serving.video_classifier import VideoClassifier

            self._classifier = VideoClassifier(self.trained, weights=os.environ.get(WEIGHTS_VARIABLE))
        nothing = {"action": "", "probability": 0.0, "actions": [], "timeline": []}
        if not isinstance(address, str):
            return {"video": "", "error": f"a video is named by a string, and not by {address!r}", **nothing}
        named = "data:" if address[:5].lower() == "data:" else address
        try:
            with fetched(address, policy) as path:
                return {"video": named, "error": "", **self._classifier(path).to_json(NUM_TOP)}
        except PerceptsError as error:
            return {"video": named, "error": str(error), **nothing}


def _addresses(model_input: Any) -> list[Any]:
    columns = getattr(model_input, "columns", None)
    if columns is not None:
        if COLUMN not in columns:
            raise ConfigError(f"the input has columns {list(columns)}; the classifier reads the column {COLUMN!r}")
        model_input = model_input[COLUMN]
    addresses = [model_input] if isinstance(model_input, str) else list(model_input)
    if not any(isinstance(address, str) for address in addresses):
        raise ConfigError("the classifier reads addresses of videos: strings, at least one")
    return addresses


def _load_pyfunc(path: str) -> ServedClassifier:
    """Loads the model for MLflow; `path` is the directory that holds model.safetensors, or that file."""
    from stages.finetuning.trained_classifiers import TrainedClassifiers

    return ServedClassifier(TrainedClassifiers.load(model_file(path)))


def example(uri: str) -> tuple[Any, Any]:
    """Returns an input and an output, for the signature; neither weights nor a video are read."""
    import numpy as np
    import pandas as pd

    names = tuple(read_header(model_file(uri))["class_names"])
    uniform_WC = np.full((1, len(names)), 1 / len(names), np.float32)
    answer = VideoAnswer(names, uniform_WC, np.zeros(1, np.int64), np.full(1, 640_000, np.int64))
    address = "https://example.org/clip.mp4"
    return pd.DataFrame({COLUMN: [address]}), [{"video": address, "error": "", **answer.to_json()}]
