"""Cells of a score table: the accuracies of an arm at a label count, and the population that an interval is over.

What is repeated is what an interval is taken over. With several official splits these are the splits: the samplings
within one are averaged first, because they share their test clips, and two or three splits do not become thirty
independent values by drawing ten samplings in each. With one split they are its samplings. Where an arm starts from
several encoders, each pretrained from a seed of its own, they are the second factor: an interval over samplings alone
speaks of the one encoder that is there, and another seed's may differ by more than it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stages.evaluation.intervals import Interval, two_way_interval

Run = tuple[int, int, int]
"""(split, sampling, number of the encoder): the key by which values of two arms are paired."""


@dataclass(frozen=True)
class Cell:
    """One place of the table: an arm at a label count."""

    accuracy: dict[Run, float] = field(default_factory=dict)
    """Share of test clips that are classified correctly."""
    confusions: dict[Run, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Counts by true class (rows) and predicted class (columns), (C, C)."""
    is_correct: dict[Run, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """For each test clip of the split, True if it is classified correctly."""
    clips: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    """(split, sampling) -> sha256 of the clips that the classifiers learned from."""
    encoders: dict[str, int] = field(default_factory=dict)
    """Key of an encoder -> its number; the key of classifiers that start from none is empty."""
    overlap: dict[int, float] = field(default_factory=dict)
    """Split -> test clips per clip learned from; all clips only."""

    def total_confusion(self) -> npt.NDArray[np.int64]:
        """Returns the counts (C, C) of all runs together: over splits, samplings and encoders."""
        return np.asarray(np.sum(list(self.confusions.values()), axis=0))

    @property
    def num_encoders(self) -> int:
        """The number of pretrained encoders that the classifiers start from; 0: they start from random weights."""
        return len(self.encoders) - ("" in self.encoders)

    def interval(self, values: Mapping[Run, float]) -> tuple[Interval, str]:
        """Computes the interval of `values`, one a run, and its population, such as "encoders and samplings"."""
        encoders = sorted({encoder for _, _, encoder in values})
        splits = sorted({split for split, _, _ in values})
        if len(splits) == 1:
            columns, overlap, over = sorted({sampling for _, sampling, _ in values}), 0.0, "samplings"
            table_ES = [[values[splits[0], sampling, encoder] for sampling in columns] for encoder in encoders]
        else:
            means = split_means(values)
            columns, over = splits, "splits"
            overlap = float(np.mean(list(self.overlap.values()))) if self.overlap else 0.0
            table_ES = [[means[split, 0, encoder] for split in splits] for encoder in encoders]
        if len(encoders) > 1:
            over = f"encoders and {over}" if len(columns) > 1 else "encoders"
        return two_way_interval(np.array(table_ES), overlap=overlap), over


def differences(worse: Cell, better: Cell) -> dict[Run, float]:
    """Returns better - worse of every run; the runs of an arm without encoders are compared with every encoder's."""
    return {
        (split, sampling, encoder): better.accuracy[run_of(better, split, sampling, encoder)]
        - worse.accuracy[run_of(worse, split, sampling, encoder)]
        for split, sampling in sorted(worse.clips)
        for encoder in range(max(1, worse.num_encoders, better.num_encoders))
    }


def run_of(cell: Cell, split: int, sampling: int, encoder: int) -> Run:
    """Returns the run of a cell that is compared under an encoder's number: the only one, where it has one encoder."""
    return split, sampling, encoder if len(cell.encoders) > 1 else 0


def split_means(values: Mapping[Run, float]) -> dict[Run, float]:
    """Averages the values over each split's samplings, as sampling 0, for each encoder."""
    gathered: dict[Run, list[float]] = {}
    for (split, _, encoder), value in sorted(values.items()):
        gathered.setdefault((split, 0, encoder), []).append(value)
    return {run: float(np.mean(of_run)) for run, of_run in gathered.items()}
