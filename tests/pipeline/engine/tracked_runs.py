"""Runs of toy stages with results, in this process and in a real MLflow."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from rich.console import Console

from pipeline.core.stage import Stage
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution
from pipeline.engine.in_process import InProcessSession, make_in_process
from pipeline.engine.plan import Plan
from pipeline.engine.status import look_up
from pipeline.engine.store import Store
from pipeline.engine.tracking.tracker import Tracker
from pipeline.engine.tracking.values import RunDescription
from tests.pipeline.engine.measured_stages import MeasureConfig, draw, foresee, judge
from tests.pipeline.engine.toy_stages import CountConfig, count


@dataclass(frozen=True)
class Tracked:
    """A finished run."""

    tracker: Tracker
    metrics: dict[str, float]
    missing: str = ""
    """What the end of the run says that MLflow lacks."""

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.tracker.uri)

    @property
    def parent(self) -> Run:
        return self.client.get_run(self.tracker.parent_id)

    def children(self) -> dict[str, Run]:
        """Returns the runs of the stages by name."""
        query = f"tags.`mlflow.parentRunId` = '{self.tracker.parent_id}'"
        return {run.info.run_name: run for run in self.client.search_runs([self.tracker.experiment_id], query)}


def plan_of(skill: float, data: Stage[Any, ..., Any] = count) -> Plan:
    plan = Plan("toy")
    numbers = plan.add(data, CountConfig(num=4))
    for stage in (judge, foresee, draw):
        plan.add(stage, MeasureConfig(skill=skill), numbers=numbers)
    return plan


def run(plan: Plan, store: Store, uri: str | None = None) -> Tracked:
    tracker = Tracker(store, uri or store.default_tracking_uri, plan.recipe)
    tracker.start(
        RunDescription(
            command="percepts run toy --skill 1", name=f"toy {plan.nodes[-1].config}",
            params={"a": 1, "b": None, "c": (), "d": "", "config": str(plan.nodes[-1].config)},
            tags={"team": "vision"}, commit="abc", dirty=False,
        )
    )  # fmt: skip
    display = Display(plan.recipe, [node.name for node in plan.nodes], Console(quiet=True))
    execution = Execution(plan.recipe, look_up(plan, store), store, lambda: tracker, display, 1, make_in_process)
    try:
        execution.run(lambda: nullcontext(InProcessSession(lambda event: execution.handle_events([event]))))
        metrics = tracker.log_results(1.5)
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.describe("# what was found")
    return Tracked(tracker, metrics, tracker.end("FINISHED"))
