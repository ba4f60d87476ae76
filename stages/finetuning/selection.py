"""Settings that were selected on validation clips: the content of `selection.json`, and the trials that decided.

Nothing here imports PyTorch before a trial is written or read. Shapes: N validation clips, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import write_json
from pipeline.core.records import read_record
from stages.models.header import as_tuples

SELECTION_FILE = "selection.json"
_KIND: Final = "TrialResult"
_PROBABILITIES: Final = "probabilities"
_FACTS: Final = {"search_clips": "consulted"} | {n: n for n in ("accuracies", "videos", "labels", "class_names")}
"""Field of a `TrialResult` -> its name in the header of a file."""


@dataclass(frozen=True, kw_only=True)
class TriedSettings:
    """A candidate and its accuracy (0..1) on the validation clips at every check."""

    settings: dict[str, float]
    accuracies: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SelectedSettings:
    """The candidate that was selected for a split and label count."""

    split: int
    labels_per_class: int
    num_validation_clips: int
    chosen: dict[str, float]
    """The candidate's settings, and `stop`: the share of the training steps after which training ends."""
    sampling: int | None = None
    """The sampling whose own labels decided; None: clips that were held out, for all samplings."""
    accuracy: float
    """The candidate's best accuracy on the validation clips."""
    trial: str = ""
    """Name of the file of the trial that won."""
    tried: tuple[TriedSettings, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The content of `selection.json`: every selection of an arm; none where nothing was selected."""

    arm: str
    choices: tuple[SelectedSettings, ...]

    def write(self, uri: str) -> None:
        """Writes `selection.json`, atomically."""
        content = asdict(self)
        for choice in content["choices"]:
            choice["tried"] = [{**tried["settings"], "accuracies": tried["accuracies"]} for tried in choice["tried"]]
        write_json(uri, content)

    @classmethod
    def read(cls, uri: str) -> Selection:
        """Reads the file that `write` wrote. Raises as `pipeline.core.records.read_record`."""
        return read_record(uri, cls, prepare=_prepared)


def _prepared(content: Any) -> Any:
    def tried(row: dict[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in row.items() if name != "accuracies"}
        return {"settings": settings, "accuracies": row["accuracies"]}

    choices = [{**choice, "tried": [tried(row) for row in choice.get("tried", ())]} for choice in content["choices"]]
    return {**content, "choices": choices}


@dataclass(frozen=True)
class TrialResult:
    """Accuracies at the checks of one training, and the predictions of the classifier at the best check; a file."""

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
        import torch

        from stages.models.weights import write_tensors

        header = {key: getattr(self, name) for name, key in _FACTS.items()}
        write_tensors(uri, {_PROBABILITIES: torch.from_numpy(self.probabilities_NC)}, {"class": _KIND, **header})

    @classmethod
    def load(cls, uri: str) -> Self:
        """Reads the file.

        Raises:
            SourceError, StoreError, CorruptArtifact: as `stages.models.weights.read_tensors`; CorruptArtifact also
              where the file holds something else.
        """
        from stages.models.weights import read_tensors

        tensors, header = read_tensors(uri)
        if header.get("class") != _KIND:
            raise CorruptArtifact(f"{uri} holds no trial of settings: give a file that finetune wrote")
        facts = {name: as_tuples(header[key]) for name, key in _FACTS.items()}
        return cls(probabilities_NC=tensors[_PROBABILITIES].numpy(), **facts)
