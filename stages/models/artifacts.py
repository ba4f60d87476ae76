"""Artifacts that hold a pretrained model, and the content of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.core.files import exists, write_json
from pipeline.core.printable import count_of
from pipeline.core.records import read_record
from pipeline.core.result_metrics import ResultMetrics, finite
from pipeline.core.stage import Artifact, Model
from stages.models.config import MODEL_FILE

if TYPE_CHECKING:  # torch takes seconds to import
    from stages.models.composite import Composite

HISTORY_FILE = "history.json"

Point = dict[str, float | None]
"""A point of a loss curve: `step`, `loss`, and `reconstruct_loss` and `predict_loss` (None: the model has no such
decoder); of training also `learning_rate` and `gradient_norm`. Losses are sums over dimensions, means over sequences
and frames."""


def passes_text(num_seen: int | float, num_sequences: int | float) -> str:
    """Returns how often a training that saw so many sequences saw each of those that there are: '1.6% of a pass'."""
    passes = num_seen / num_sequences
    number = f"{passes:.2g}" if passes < 99.5 else f"{passes:,.0f}"
    amount = f"{number} passes" if passes >= 1.05 else "one pass" if passes >= 0.995 else f"{passes:.2%} of a pass"
    return f"{amount} over {count_of(round(num_sequences), 'sequence')}"


@dataclass(frozen=True, kw_only=True)
class TrainingHistory:
    """One `history.json`: losses by optimiser step."""

    train: tuple[Point, ...]
    validation: tuple[Point, ...]
    num_steps: int = 0
    """The number of optimiser steps that were done; fewer than the configured ones where the training stopped early."""
    kept_step: int = 0
    """The step whose weights became the model."""
    num_sequences: int | None = None
    """Different training sequences; None: there is no end of them."""
    amounts: dict[str, Any] = field(default_factory=dict)
    """Facts on how much was learned from and validated on: `training/num_videos` and others."""

    def write(self, uri: str) -> None:
        """Writes the file."""
        write_json(uri, asdict(self))

    @property
    def kept_loss(self) -> float | None:
        """The validation loss of the weights that became the model."""
        return next(point["loss"] for point in self.validation if point["step"] == self.kept_step)


@dataclass(frozen=True)
class Encoder(Artifact):
    """A pretrained composite: `model.safetensors`, weights and config; `history.json`, where it was trained here."""

    model: ClassVar[Model | None] = Model("stages.serving.encoder", (MODEL_FILE,))

    def load(self, *, device: str = "cpu") -> Composite:
        """Loads the model, float32, in evaluation mode."""
        from stages.models.pretrained import Pretrained

        return Pretrained.load(self.uri, device=device).composite

    def history(self) -> TrainingHistory | None:
        """Reads `history.json`; None for an imported encoder, which has none. Raises CorruptArtifact."""
        uri = self.path(HISTORY_FILE)
        if not exists(uri):
            return None
        return read_record(uri, TrainingHistory)

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Reads the validation loss of the model, the share of a pass that its training saw."""
        history = self.history()
        if history is None:
            return ResultMetrics()
        values = {"validation_loss": history.kept_loss, "train_steps": float(history.num_steps)}
        seen, total = facts.get("num_sequences_seen"), facts.get("num_sequences")
        if seen is not None and total:
            values["share_of_pass"] = float(seen) / float(total)
        return ResultMetrics(values=finite(values))
