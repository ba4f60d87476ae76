"""Artifacts that hold finetuned classifiers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.core.files import list_files
from pipeline.core.stage import Artifact, Model
from stages.finetuning.selection import SELECTION_FILE, Selection
from stages.models.config import MODEL_FILE

if TYPE_CHECKING:  # torch takes seconds to import
    from stages.finetuning.trained_classifiers import TrainedClassifiers

JOB_PREFIXES = ("labels-", "split-")
"""Prefixes of the files of a `Classifiers` that hold classifiers to be evaluated."""


@dataclass(frozen=True)
class Classifiers(Artifact):
    """Finetuned classifiers of one arm: files of several each, and in `model.safetensors` the one that is served."""

    model: ClassVar[Model | None] = Model("stages.serving.classifier", (MODEL_FILE,))

    def selection(self) -> Selection:
        """Reads `selection.json`, the settings that were selected on validation clips. Raises CorruptArtifact."""
        return Selection.read(self.path(SELECTION_FILE))

    def files(self) -> list[str]:
        """Returns the sorted names of the files for `load`; together they hold every label count and sampling once."""
        names = [name for name in list_files(self.uri) if name.endswith(".safetensors")]
        return [name for name in names if name.startswith(JOB_PREFIXES)]

    def load(self, name: str, *, device: str = "cpu") -> TrainedClassifiers:
        """Loads the classifiers of a file. Raises as `TrainedClassifiers.load`."""
        from stages.finetuning.trained_classifiers import TrainedClassifiers

        return TrainedClassifiers.load(self.path(name), device=device)
