"""Estimates of the time left: within a factor of two after a tenth of the work, of stages and of whole runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipeline.core.events import Event, Log, Progress, Waiting, discard
from pipeline.core.rates import GROUP_START_S
from pipeline.core.stage import Context, Estimate, Resources, Work, stage
from pipeline.core.workers import Workers
from pipeline.engine.display import Display
from pipeline.engine.execute import StageTask, Waits, make_with
from pipeline.engine.plan import Plan
from pipeline.engine.status import expected_seconds, look_up
from pipeline.engine.store import Manifest, Store
from pipeline.engine.time_left import PRIOR_S, Pace, StageTime, run_seconds_left, seconds_added
from tests.pipeline.engine.toy_stages import CountConfig, Numbers, count


@stage(
    version=1,
    estimate=lambda config, inputs: Estimate(
        seconds=20.0, work=Work(amount=config.num, per_core_s=10.0, per_gpu_s=100.0)
    ),
)
def train(config: CountConfig, context: Context) -> Numbers:
    """A training of `num` steps, 20 s after it was started."""
    raise NotImplementedError


TRACE = Path(__file__).parent / "demo_trace.csv"
"""The events of a real run of the demo on two cores that other programs used, too (seconds, event, stage, ...)."""
ESTIMATES: dict[str, float | None] = {
    **{"synthesize": 12.0, "ingest": 4.5, "extract": 24.0, "standardize": 0.3, "pretrain": 45.0, "forecast": 3.0},
    **{
        "visualize": 1.0,
        "finetune frame": 2.6,
        "finetune scratch": 27.0,
        "finetune pretrained": 27.0,
        "evaluate": 17.0,
    },
}
"""What the plan of that run, on an empty store, estimates in seconds."""


@dataclass
class Clock:
    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass(frozen=True)
class Estimated:
    """An estimate while a trace is played, and what came."""

    stage: str
    share: float
    seconds: float
    true_seconds: float


def event_of(row: list[str]) -> Event:
    at, kind, stage, *values = row
    if kind == "waiting":
        return Waiting(source=stage, at=float(at), reason=values[0])
    if kind == "log":
        return Log(source=stage, at=float(at), line="")
    done, total, unit, part = values
    return Progress(source=stage, at=float(at), done=int(done), total=int(total), unit=unit, part=part)


def play(clock: Clock) -> Iterator[Estimated]:
    """Plays the real run; yields the estimates of the run (stage empty) and of its stages after each event."""
    rows = list(csv.reader(TRACE.read_text().splitlines()))
    ends = {stage: float(at) for at, kind, stage, *_ in rows if kind == "made"}
    start, end = float(rows[0][0]), max(ends.values())
    display = Display("demo", list(ESTIMATES), Console(file=io.StringIO()), ESTIMATES)
    for row in rows:
        clock.now, stage = float(row[0]), row[2]
        if row[1] == "started":
            display.start(stage)
        elif row[1] == "made":
            display.done(stage, 0)
        else:
            display.handle(event_of(row))
        left = display.seconds_left()
        if left is not None:
            yield Estimated("", (clock.now - start) / (end - start), left, end - clock.now)
        pace = display._lines[stage].pace
        left = pace.seconds_left(clock.now)
        if left is not None and row[1] == "progress":
            yield Estimated(stage, pace.done / pace.total, left, ends[stage] - clock.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipeline.engine.display.time", clock)
    return clock


def test_a_real_run_ends_when_it_was_said_to(clock: Clock) -> None:
    """Until the last stage, whose time no plan on an empty store knows."""
    of_run = [one for one in play(clock) if not one.stage and 0.1 <= one.share < 0.85]
    assert len(of_run) > 100
    for one in of_run:
        assert one.true_seconds / 2 <= one.seconds <= one.true_seconds * 2, one


def test_stages_of_a_real_run_end_when_they_were_said_to(clock: Clock) -> None:
    """Give or take the seconds in which a stage writes what it has made."""
    stages = {"synthesize", "ingest", "extract", "pretrain"}
    of_stages = [one for one in play(clock) if one.stage in stages and one.share >= 0.1]
    assert {one.stage for one in of_stages} == stages
    for one in of_stages:
        assert one.true_seconds / 2 - 3 <= one.seconds <= one.true_seconds * 2 + 3, one


@given(
    rate=st.floats(0.01, 1000.0),
    total=st.integers(20, 1000),
    wait=st.floats(0.0, 500.0),
    num_before=st.integers(0, 5),
    random=st.randoms(use_true_random=False),
)
@settings(max_examples=50, deadline=None)
def test_steady_work_is_foreseen_after_a_tenth(
    rate: float, total: int, wait: float, num_before: int, random: Random
) -> None:
    """Units take up to 1.7 times as long as others; the stage waited before, and had units of an earlier run."""
    durations = [random.uniform(0.75, 1.25) / rate for _ in range(total - num_before)]
    pace, now = Pace(), 100.0
    pace.report(num_before, total, "units", now)
    pace.stop()
    now += wait
    pace.begin(now)
    for number, duration in enumerate(durations, start=1):
        now += duration
        pace.report(num_before + number, total, "units", now)
        left = sum(durations[number:])
        if number >= 0.1 * total and left:
            assert left / 2 <= (pace.seconds_left(now) or 0.0) <= 2 * left


def test_a_wait_is_no_work_and_late_reports_lower_the_rate() -> None:
    pace = Pace()
    for at in range(11):
        pace.report(10 * at, 1000, "steps", float(at))
    assert pace.rate(10.0) == pytest.approx(10.0)
    assert pace.seconds_left(10.5) == pytest.approx(89.5)  # nothing is late yet
    assert pace.rate(110.0) == pytest.approx(1.0, rel=0.1)
    pace.stop()
    assert pace.seconds_left(500.0) is None
    pace.report(100, 1000, "steps", 1000.0)
    pace.report(120, 1000, "steps", 1001.0)
    assert pace.rate(1001.0) == pytest.approx(20.0)


def test_what_comes_before_the_first_steps_is_not_at_their_pace() -> None:
    """The data are opened for 10 s, then a step takes a second; until 5% the plan's estimate counts."""
    pace = Pace()
    pace.begin(0.0)
    for step in range(1, 4):
        pace.report(step, 101, "steps", 10.0 + step)
        assert pace.is_early == (step < 3)
    assert pace.seconds_left(13.0) == pytest.approx(98.0)
    early = StageTime(expected_s=90.0, worked_s=13.0, left_s=1000.0, share=0.03, is_running=True)
    assert run_seconds_left([early]) == pytest.approx(77.0)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_a_chain_on_a_machine_of_another_speed(factor: float) -> None:
    """A tenth into a run whose every stage takes `factor` times what the plan said."""
    expected = [200.0, 400.0, 900.0, 500.0]
    worked = 0.1 * factor * sum(expected)
    first = factor * expected[0]
    share = worked / first
    stages = [StageTime(expected_s=200.0, worked_s=worked, left_s=first - worked, share=share, is_running=True)]
    stages += [StageTime(expected_s=seconds) for seconds in expected[1:]]
    left = factor * sum(expected) - worked
    assert left / 2 <= (run_seconds_left(stages) or 0.0) <= 2 * left


def test_stages_beside_each_other_do_not_add_up_and_what_is_unknown_is_not_said() -> None:
    beside = [
        StageTime(expected_s=30.0, worked_s=10.0, left_s=50.0, share=0.2, is_running=True),
        StageTime(expected_s=30.0, worked_s=20.0, left_s=40.0, share=0.3, is_running=True),
    ]
    assert run_seconds_left(beside) == 50.0
    unknown = StageTime(expected_s=None, worked_s=5.0, is_running=True)
    assert run_seconds_left([*beside, unknown]) is None
    assert run_seconds_left([]) == 0.0


def test_units_that_are_not_alike_are_weighed() -> None:
    """The first of two halves of the units takes nine tenths of the time."""
    pace = Pace()
    pace.report(0, 20, "trainings", 0.0, 0.0)
    for number in range(1, 11):
        pace.report(number, 20, "trainings", 9.0 * number, 0.09 * number)
        assert pace.seconds_left(9.0 * number) == pytest.approx(100.0 - 9.0 * number)
    assert pace.rate(90.0) == pytest.approx(1 / 9)


def test_stages_that_ran_beside_each_other_add_up_to_the_time_that_they_took_together() -> None:
    spans = {"a": (0.0, 10.0), "b": (4.0, 8.0), "c": (4.0, 12.0), "none": (5.0, 5.0), "later": (20.0, 21.0)}
    added = seconds_added(spans)
    third = 4.0 / 3
    assert added == pytest.approx({"a": 5.0 + third, "b": third, "c": 3.0 + third, "none": 0.0, "later": 1.0})
    assert sum(added.values()) == pytest.approx(13.0)


def test_a_longer_training_is_foreseen_by_a_short_one_and_what_ran_beside_it(tmp_path: Path) -> None:
    """4 steps took 36 s, nearly all of it the start of the workers: 60 steps do not take nine minutes.

    A stage like the one before takes as long as it, and a smaller one its share.
    """
    store, plan = Store.open(str(tmp_path), create=True), Plan("demo")
    node, four, one = (
        plan.add(train, CountConfig(num=num), name=f"train {num}", resources=Resources(num_workers=2))
        for num in (60, 4, 1)
    )
    beside = plan.add(count, CountConfig())
    for name, like in (("train", four), ("count", beside)):
        store.commit(
            Manifest(
                stage=name, version=1, key=f"{name}-0", name=name, recipe="demo", config={}, inputs={},
                facts={"num_cores": 2}, seconds=36.0, expected_s=expected_seconds(like, {}),
                finished_at="2026-11-27T11:00:36+00:00",
            )
        )  # fmt: skip
    steps = {step.node.name: step for step in look_up(plan, store)}
    speed = (36.0 + PRIOR_S) / (20 + GROUP_START_S + 4 / 20 + PRIOR_S)
    assert steps[node.name].estimate.seconds == pytest.approx(36.0 + (60 - 4) / 20 * speed)
    assert steps[node.name].expected_s == pytest.approx((36.0 + (60 - 4) / 20 * speed) / 2)
    assert steps[four.name].estimate.seconds == 36.0
    share = (20 + GROUP_START_S + 1 / 20) / (20 + GROUP_START_S + 4 / 20)
    assert steps[one.name].estimate.seconds == pytest.approx(36.0 * share)
    assert (steps[beside.name].estimate.seconds, steps[beside.name].expected_s) == pytest.approx((36.0, 18.0))


def test_what_could_not_be_estimated_does_not_foretell_what_can(tmp_path: Path) -> None:
    """The hour of a convnet that nobody had measured says nothing about one that is known to take 20 s."""
    store, plan = Store.open(str(tmp_path), create=True), Plan("demo")
    node = plan.add(train, CountConfig(num=60), name="train", resources=Resources(num_workers=1))
    assert expected_seconds(node, {}) == 26.0
    hour = Manifest(
        stage="train", version=1, key="train-0", name="train", recipe="demo", config={}, inputs={}, seconds=3600.0
    )
    for expected_s, seconds in ((None, 26.0), (30.0, 3600.0 * 26 / 30)):
        store.commit(replace(hour, expected_s=expected_s))
        (step,) = look_up(plan, store)
        assert step.estimate.seconds == pytest.approx(seconds)


def test_a_wait_for_workers_is_no_part_of_a_manifests_seconds(tmp_path: Path) -> None:
    """The end of a wait says how long it was; a group of workers says while it waits, and not at the end."""
    waits, store = Waits(discard), Store.open(str(tmp_path), create=True)
    for reason, seconds in (("busy", 15.0), ("", 40.0), ("busy", 15.0), ("busy", 30.0)):
        waits(Waiting(source="count", reason=reason, seconds=seconds))
    assert waits.seconds == 70.0
    node = Plan("toy").add(count, CountConfig())
    draft = Manifest(stage="count", version=1, key=node.key, name="count", recipe="toy", config={}, inputs={})
    context = Context(store.directory("count", node.key), store.root, node.key)
    task = StageTask(stage=count, config=CountConfig(), inputs={}, context=context, manifest=draft)
    assert make_with(task, Workers(), waits).seconds == 0.0
