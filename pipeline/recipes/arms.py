"""The part of a DAG that measures action recognition: the arms of Tables 1 and 3 and of the label curve.

    encoders (a pretrained model a row) ─┐
    percepts, statistics, splits ────────┴─ finetune, one an arm ─ evaluate

One finetune node is one row of every table: it trains all splits, label counts and samplings of its arm, so that a
recipe has ten nodes for a thousand classifiers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Resources
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.model_variants import Model, encoder_suffix
from stages.datasets.labelled import ALL_CLIPS
from stages.evaluate import EvaluateConfig, evaluate
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import SelectionConfig
from stages.models.config import ClassifierConfig

Table = Literal["1", "3", "4", "curve"]

SINGLE_FRAME: Final = "single frame"
MEAN_FRAMES: Final = "mean of frames, logistic regression"
ATTENTION: Final = "attention over frames"
SCRATCH: Final = "LSTM from scratch"
COMPOSITE: Final = "composite"
TABLE_3_ROWS: Final[dict[Model, str]] = {
    "autoencoder": "autoencoder",
    "future": "future predictor",
    "conditional autoencoder": "conditional autoencoder",
    "conditional future": "conditional future predictor",
    "composite": COMPOSITE,
    "composite, conditional future": "composite, conditional future",
}
"""The six models of the command line and the rows of Table 3 that start from them, in the paper's order."""
COMPARED: Final = (
    (SINGLE_FRAME, SCRATCH),
    *((neighbour, row) for neighbour in (MEAN_FRAMES, ATTENTION) for row in (SCRATCH, COMPOSITE)),
    *((SCRATCH, row) for row in TABLE_3_ROWS.values()),
    ("autoencoder", COMPOSITE),
    ("future predictor", COMPOSITE),
    ("autoencoder", "conditional autoencoder"),
    ("future predictor", "conditional future predictor"),
    (COMPOSITE, "composite, conditional future"),
)
"""(worse, better) as the paper has them: every difference that one of its findings is about, and those to neighbours
that know no order of frames."""
MEAN_FRAMES_C: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class ArmConfigs:
    """The trainings of the three kinds of classifier; arms, splits and label counts are those of the tables."""

    single_frame: FinetuneConfig
    scratch: FinetuneConfig
    pretrained: FinetuneConfig


def _of_mean_frames(single_frame: FinetuneConfig) -> FinetuneConfig:
    """Returns the arm of the mean of frames: its C is chosen on the clips on which other arms choose, if they do."""
    selection = SelectionConfig(
        inverse_regularizations=MEAN_FRAMES_C if single_frame.selection.is_on else (),
        stride=single_frame.selection.stride,
        validation_fraction=single_frame.selection.validation_fraction,
    )
    return replace(single_frame, classifier=ClassifierConfig(model="mean"), selection=selection)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The tables to measure, and the numbers of labelled clips to measure them at."""

    tables: Collection[Table]
    small: int
    """Labelled clips a class of Table 3's small variant: 10 on UCF-101, 4 on HMDB-51."""
    curve: Sequence[int]
    """Labelled clips a class of the label curve."""

    def __post_init__(self) -> None:
        if not self.tables:
            raise ConfigError("tables is empty; name any of 1, 3, 4 and curve")

    def label_counts(self, row: str) -> tuple[int, ...]:
        """Returns the label counts that a row is measured at; none where no table has the row."""
        counts: set[int] = set()
        if row in (SINGLE_FRAME, MEAN_FRAMES, ATTENTION, SCRATCH, COMPOSITE):
            counts |= {ALL_CLIPS} if "1" in self.tables else set()
            counts |= set(self.curve) if "curve" in self.tables else set()
        if row == COMPOSITE and "4" in self.tables:
            counts |= {ALL_CLIPS}
        if row not in (SINGLE_FRAME, MEAN_FRAMES, ATTENTION) and "3" in self.tables:
            counts |= {self.small, ALL_CLIPS}
        return tuple(sorted(counts, key=lambda count: (count == ALL_CLIPS, count)))


@dataclass(frozen=True, kw_only=True)
class Arms:
    """The nodes that were added."""

    finetuned: dict[str, Node]
    """The finetune node of each row, that of its first encoder where it has several."""
    scores: Node


def add_arms(
    plan: Plan,
    *,
    configs: ArmConfigs,
    measured: Measured,
    encoders: Mapping[Model, Sequence[Node]],
    percepts: Node,
    statistics: Node,
    splits: Node | None,
    numbers: tuple[int, ...] = (),
    resources: Resources,
    to_finetune: Resources | None = None,
    stream: str = "",
    reversals: tuple[tuple[str, str], ...] = (),
) -> Arms:
    """Adds a finetune node for every row that a table needs, and one that evaluates them all.

    encoders: pretrained models by their name on the command line, each from one or more seeds; the rows of the others
      are left out.
    to_finetune: resources of each finetune node, if they are others than `resources`, which are evaluate's.
    stream: put before the nodes' names, where a plan has arms of more than one kind of percepts.
    reversals: classes of the same frames in reverse order; with arms of --arrow they follow from the classes.
    """
    rows: dict[str, tuple[FinetuneConfig, Sequence[Node | None]]] = {
        SINGLE_FRAME: (configs.single_frame, (None,)),
        MEAN_FRAMES: (_of_mean_frames(configs.single_frame), (None,)),
        ATTENTION: (replace(configs.single_frame, classifier=ClassifierConfig(model="attention")), (None,)),
        SCRATCH: (configs.scratch, (None,)),
    }
    for model, row in TABLE_3_ROWS.items():
        if model in encoders:
            rows[row] = (configs.pretrained, encoders[model])
    finetuned: dict[str, Node] = {}
    classifiers: list[Node] = []
    for row, (config, starts) in rows.items():
        counts = measured.label_counts(row)
        for number, encoder in enumerate(starts if counts else ()):
            node = plan.add(
                finetune,
                replace(config, arm=row, labels_per_class=counts, splits=numbers),
                name=f"{stream}finetune {row}{encoder_suffix(number)}",
                resources=to_finetune or resources,
                percepts=percepts,
                statistics=statistics,
                encoder=encoder,
                splits=splits,
            )
            finetuned.setdefault(row, node)
            classifiers.append(node)
    if not finetuned:
        raise ConfigError(f"no arm is left to train: {', '.join(measured.tables)} need models that are not named")
    pairs = tuple((worse, better) for worse, better in COMPARED if worse in finetuned and better in finetuned)
    scores = plan.add(
        evaluate,
        EvaluateConfig(pairs=pairs, splits=numbers, arrow=configs.scratch.arrow, reversals=reversals),
        name=f"{stream}evaluate",
        resources=resources,
        classifiers=classifiers,
        percepts=percepts,
        splits=splits,
    )
    return Arms(finetuned=finetuned, scores=scores)
