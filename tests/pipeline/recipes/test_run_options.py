"""How many members a training group has, and how many threads each."""

from __future__ import annotations

import pytest

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Resources
from pipeline.recipes.run_options import RunOptions


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RunOptions(), Resources(num_workers=2)),
        (RunOptions(train_threads=2), Resources(num_workers=1, cpus_per_worker=2)),
        (RunOptions(workers="1", train_threads=2), Resources(num_workers=1, cpus_per_worker=1)),
        (RunOptions(workers="4:8", train_threads=2), Resources(num_workers=4, min_workers=2, cpus_per_worker=2)),
        (RunOptions(workers="4", train_threads=2, gpus_per_worker=1), Resources(num_workers=4, gpus_per_worker=1)),
    ],
)
def test_threads_divide_the_workers_but_on_gpus(options: RunOptions, expected: Resources) -> None:
    assert options.to_train == expected


def test_a_member_has_a_thread() -> None:
    with pytest.raises(ConfigError, match="train_threads is 0"):
        RunOptions(train_threads=0)
