"""The progress of an arm's work: jobs are few and long, and the time left is foreseen from the first on."""

from __future__ import annotations

import heapq
from pathlib import Path
from random import Random

import pytest

from pipeline.core.events import Event, Progress
from pipeline.core.stage import Context, Resources
from pipeline.engine.time_left import Pace
from stages.datasets.split_subsets import SplitSubsets
from stages.finetune import FinetuneConfig
from stages.finetuning.schedule import ScheduleProgress, TrainingSchedule


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_the_time_left_is_foreseen_from_the_first_job_on(num_workers: int, seed: int, tmp_path: Path) -> None:
    """Jobs take up to 1.5 times as long as others of the same size. Until some worker finds no more work."""
    random, config = Random(seed), FinetuneConfig(arm="LSTM", labels_per_class=(1, 2, 5, 10), num_samplings=20)
    subsets = [SplitSubsets(0, fit=[], validation=[], class_names=("walks",))]
    schedule = TrainingSchedule(config, str(tmp_path), config.chunks(), subsets, print)
    waiting = [(schedule.work([item]) * random.uniform(0.8, 1.2), item) for item in schedule.begin()]
    events: list[Event] = []
    context = Context.for_test(tmp_path, emit=events.append, resources=Resources(num_workers=num_workers))
    now = [0.0]
    progress, pace, estimates = ScheduleProgress(schedule, context, lambda: now[0]), Pace(), []
    running = [(seconds, seconds, number) for number, (seconds, _) in enumerate(waiting[:num_workers])]
    heapq.heapify(running)
    begun = num_workers
    while running:
        now[0], seconds, number = heapq.heappop(running)
        if begun < len(waiting):
            longer = waiting[begun][0]
            heapq.heappush(running, (now[0] + longer, longer, begun))
            begun += 1
        progress.next_jobs(waiting[number][1], seconds)
        for event in events:
            assert isinstance(event, Progress)
            pace.report(event.done, event.total, event.unit, 0.0 if not event.done else now[0], event.share)
        events.clear()
        if begun < len(waiting):
            estimates.append((now[0], pace.seconds_left(now[0])))
    end = now[0]
    for at, left in estimates:
        if at >= 0.1 * end:
            assert left is not None
            assert (end - at) / 2 <= left <= 2 * (end - at), (at, left, end - at)
