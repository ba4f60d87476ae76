"""Artifacts that hold the results of an evaluation."""

from dataclasses import dataclass

from pipeline.core.stage import Artifact


@dataclass(frozen=True)
class Scores(Artifact):
    """Accuracies, intervals, paired differences and confusion matrices of classifiers on test clips."""
