"""The order of work: the stage on the longest path starts first, and others once it has its workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.session import FinishedTask
from pipeline.core.events import Emit, Event, Progress, discard
from pipeline.core.stage import Context, Estimate, Resources, stage
from pipeline.core.workers import Workers
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution, StageTask, make_with
from pipeline.engine.order import remaining_seconds
from pipeline.engine.plan import Node, Plan
from pipeline.engine.status import look_up
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.no_tracking import NoTracker
from tests.pipeline.engine.toy_stages import CountConfig, Numbers, SumConfig, add, count


@stage(version=1, estimate=lambda config, inputs: Estimate(seconds=float(config.num)))
def last_seconds(config: CountConfig, context: Context, *, numbers: Numbers) -> Numbers:
    return count.function(config, context)


def arms(training: Resources | None = None) -> Plan:
    """A corpus; a short arm, a long one, and a training that a third arm starts from: in the order of the demo."""
    plan = Plan("arms")
    numbers = plan.add(count, CountConfig())

    def arm(name: str, seconds: int, start: Node, resources: Resources | None = None) -> Node:
        return plan.add(last_seconds, CountConfig(num=seconds), name=name, numbers=start, resources=resources)

    made = [arm("frame", 5, numbers), arm("scratch", 60, numbers)]
    made.append(arm("pretrained", 61, arm("pretrain", 50, numbers, training)))
    plan.add(add, SumConfig(), parts=made)
    return plan


@dataclass
class SteppedSession:
    """A session whose oldest task ends at a call of `finished`; before that, all tasks that run say so in turn."""

    emit: Emit = discard
    running: dict[str, Any] = field(default_factory=dict)
    said: list[Event] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    def start(self, name: str, function: Any, *args: Any) -> None:
        self.running[name] = (function, args)
        self.story.append(name)

    def finished(self, timeout_seconds: float) -> list[FinishedTask]:
        silent = [name for name in self.running if f"{name} begins" not in self.story]
        if silent:
            self.story.append(f"{silent[0]} begins")
            self.said.append(Progress(source=silent[0], done=0, total=1, unit="steps"))
            return []
        name = next(iter(self.running))
        function, args = self.running.pop(name)
        self.story.append(f"{name} ends")
        return [FinishedTask(name=name, value=function(*args))]

    def events(self) -> list[Event]:
        said, self.said = self.said, []
        return said

    def cancel(self) -> None: ...


def story_of(plan: Plan, root: Path) -> list[str]:
    def make(task: StageTask) -> Manifest:
        return make_with(task, Workers(source=task.manifest.name))

    store, session = Store.open(str(root), create=True), SteppedSession()
    display = Display(plan.recipe, [node.name for node in plan.nodes], Console(quiet=True))
    execution = Execution(plan.recipe, look_up(plan, store), store, NoTracker, display, 8, make)
    execution._make_all(list(plan.nodes), session)
    return session.story


def test_the_longest_path_is_first_and_others_wait_until_it_has_begun(tmp_path: Path) -> None:
    plan = arms()
    remaining = remaining_seconds(look_up(plan, Store.open(str(tmp_path), create=True)))
    assert remaining == {"count": 113, "frame": 6, "scratch": 61, "pretrain": 112, "pretrained": 62, "add": 1}
    story = story_of(plan, tmp_path)
    assert story[:3] == ["count", "count begins", "count ends"]
    order = ["pretrain", "pretrain begins", "scratch", "scratch begins", "frame", "frame begins"]
    assert [word for word in story[3:] if word in order] == order
    assert story.index("pretrained") == story.index("pretrain ends") + 1
    assert story[-1] == "add ends"


def test_a_wait_for_gpus_holds_nobody_up_who_needs_none(tmp_path: Path) -> None:
    story = story_of(arms(Resources(gpus_per_worker=1)), tmp_path)
    assert story[3:5] == ["pretrain", "scratch"]
    assert story.index("scratch") < story.index("pretrain begins")
