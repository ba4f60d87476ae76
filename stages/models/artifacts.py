"""Artifacts that hold a pretrained model."""

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.stage import Artifact, Model
from stages.models.composite import Composite
from stages.models.weights import MODEL_FILE, load_model


@dataclass(frozen=True)
class Encoder(Artifact):
    """A pretrained composite: `model.safetensors`, weights and config."""

    model: ClassVar[Model | None] = Model("stages.serving.encoder", (MODEL_FILE,))

    def load(self, *, device: str = "cpu") -> Composite:
        """The model, float32, in evaluation mode."""
        return load_model(self.path(MODEL_FILE), Composite, device=device)
