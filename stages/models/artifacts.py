"""Artifacts that the model stages exchange: directories of a store."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.files import list_files
from pipeline.stage import Artifact, Model
from stages.models import serving, serving_classifier
from stages.models.composite import Composite
from stages.models.trained import TrainedClassifiers
from stages.models.weights import MODEL_FILE, load_model

JOB_PREFIXES = ("labels-", "split-")
"""How the files of a `Classifiers` begin that hold classifiers to be judged."""


@dataclass(frozen=True)
class Encoder(Artifact):
    """A pretrained composite: `model.safetensors`, weights and config."""

    model: ClassVar[Model | None] = Model("stages.models.serving", (MODEL_FILE,), serving.example)

    def load(self, *, device: str = "cpu") -> Composite:
        """The model, float32, in evaluation mode."""
        return load_model(self.path(MODEL_FILE), Composite, device=device)


@dataclass(frozen=True)
class Classifiers(Artifact):
    """Finetuned classifiers of one arm: files of several each, and in `model.safetensors` the one that is served."""

    model: ClassVar[Model | None] = Model("stages.models.serving_classifier", (MODEL_FILE,), serving_classifier.example)

    def files(self) -> list[str]:
        """Names of the files that `load` takes, sorted; together they hold every label count and sampling once."""
        names = [name for name in list_files(self.uri) if name.endswith(".safetensors")]
        return [name for name in names if name.startswith(JOB_PREFIXES)]

    def load(self, name: str, *, device: str = "cpu") -> TrainedClassifiers:
        """The classifiers of a file."""
        return TrainedClassifiers.load(self.path(name), device=device)


@dataclass(frozen=True)
class Scores(Artifact):
    """What evaluation measured."""
