"""The result of a trial of settings on validation clips, as a file.

Shapes: N validation clips, C classes.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.errors import CorruptArtifact
from stages.models.weights import read_tensors, write_tensors

_KIND = "TrialResult"
_PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class TrialResult:
    """Accuracies at the checks of one training, and the predictions of the classifier at the best check."""

    accuracies: tuple[float, ...]
    """Share of validation clips that are classified correctly, check by check."""
    search_clips: tuple[tuple[str, str | None], ...]
    """(sha256, group) of every clip that was trained or evaluated on in the trial."""
    videos: tuple[str, ...]
    """sha256 of the validation clips."""
    labels: tuple[str, ...]
    """Classes of the validation clips, in the order of `videos`."""
    class_names: tuple[str, ...]
    probabilities_NC: npt.NDArray[np.float32]
    """Probabilities of the validation clips, at the first check with the highest accuracy."""

    @property
    def best_check(self) -> int:
        """Number of the first check with the highest accuracy."""
        return self.accuracies.index(max(self.accuracies))

    def save(self, uri: str) -> None:
        """Writes the file, atomically."""
        facts = ("accuracies", "videos", "labels", "class_names")
        header: dict[str, Any] = {"consulted": self.search_clips, **{name: getattr(self, name) for name in facts}}
        write_tensors(uri, {_PROBABILITIES: torch.from_numpy(self.probabilities_NC)}, {"class": _KIND, **header})

    @classmethod
    def load(cls, uri: str) -> Self:
        """Reads the file.

        Raises:
            SourceError, StoreError, CorruptArtifact: as `stages.models.weights.read_tensors`; CorruptArtifact also
              where the file holds something else.
        """
        tensors, header = read_tensors(uri)
        if header.get("class") != _KIND:
            raise CorruptArtifact(f"{uri} holds no trial of settings: give a file that finetune wrote")
        return cls(
            accuracies=tuple(header["accuracies"]),
            search_clips=tuple((sha256, group) for sha256, group in header["consulted"]),
            videos=tuple(header["videos"]),
            labels=tuple(header["labels"]),
            class_names=tuple(header["class_names"]),
            probabilities_NC=tensors[_PROBABILITIES].numpy(),
        )
