"""The training loop itself on one device, and the rate that it reports: every benchmark of training measures so."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace

from pipeline.core.events import Event, Metrics
from pipeline.core.workers import TrainWorker
from stages.pretraining.config import TrainingConfig
from stages.pretraining.loop import pretraining_loop
from stages.pretraining.training_plan import TrainingPlan

NUM_WARM_REPORTS = 1
"""The first report holds what is compiled and captured, and the last one is of less than a second."""


def measured(training: TrainingConfig, num_steps: int) -> TrainingConfig:
    """Returns a training of so many steps that validates on little, and writes no checkpoint on the way."""
    return replace(
        training,
        num_steps=num_steps,
        validate_every_steps=num_steps,
        max_validation_batches=1,
        checkpoint_every_steps=10 * num_steps,
    )


def train(plan: TrainingPlan, device: str) -> list[Mapping[str, float]]:
    """Trains by the loop of `pretrain`, and returns the values of its reports, one a second."""
    reports: list[Mapping[str, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Metrics) and "sequences_per_second" in event.values:
            reports.append(event.values)

    pretraining_loop(plan, TrainWorker(emit=listen, device=device))
    return reports[NUM_WARM_REPORTS:-1] or reports


def sequences_per_second(reports: list[Mapping[str, float]]) -> float:
    """Returns the median rate of a training's reports."""
    return statistics.median(report["sequences_per_second"] for report in reports)
