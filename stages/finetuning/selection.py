"""Settings that were selected on validation clips: the content of `selection.json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.core.files import write_json
from pipeline.core.records import read_record

SELECTION_FILE = "selection.json"


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
        selection: Selection = read_record(uri, cls, prepare=_prepared)
        return selection


def _prepared(content: Any) -> Any:
    def tried(row: dict[str, Any]) -> dict[str, Any]:
        settings = {name: value for name, value in row.items() if name != "accuracies"}
        return {"settings": settings, "accuracies": row["accuracies"]}

    choices = [{**choice, "tried": [tried(row) for row in choice.get("tried", ())]} for choice in content["choices"]]
    return {**content, "choices": choices}
