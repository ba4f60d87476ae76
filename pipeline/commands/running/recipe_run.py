"""A run of a recipe: its stages on Ray, its runs in MLflow, its lines on the terminal and its report."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cluster.rendering.schedule import schedule_line
from cluster.run_records import RunRecord, recorded
from cluster.session import THREAD_SETTINGS, session
from pipeline.commands.compare import comparison_of
from pipeline.core.errors import RunError, UsageError
from pipeline.core.files import join, wait_for_buckets
from pipeline.core.printable import printable_lines
from pipeline.core.secrets import masked, public
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution
from pipeline.engine.json_display import JsonDisplay, write_line
from pipeline.engine.keys import digest_of
from pipeline.engine.plan import Node
from pipeline.engine.provenance import SOURCE_ROOT, commit
from pipeline.engine.status import Step
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.no_tracking import NoTracker
from pipeline.engine.tracking.values import HolderResults, Registration, RunDescription, flat
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.run_names import model_description, run_name
from pipeline.recipes.run_options import HOW_TO_RUN, RunOptions

if TYPE_CHECKING:  # MLflow takes seconds to import
    from pipeline.engine.tracking.tracker import Tracker
    from pipeline.reporting.comparison import Comparison
    from pipeline.reporting.results import Results

REPORTS = "reports"


@dataclass(frozen=True, kw_only=True)
class RecipeRun:
    """A plan that was looked up in a store, and where to make what is missing."""

    recipe: Recipe
    options: RunOptions
    steps: list[Step]
    store: Store
    command: str
    """The command line, for MLflow and the report."""
    console: Console
    encoder: str | None
    """The node whose model is registered with MLflow; None: none is."""

    def make(self) -> str:
        """Makes what is missing; returns the URI of the report.

        Raises:
            UsageError: MLflow or Ray does not answer, or a stage found that its request cannot be met.
            StageFailed: a stage raised.
        """
        from pipeline.reporting.note import escape_markdown, note
        from pipeline.reporting.terminal import print_results

        started, started_at = time.monotonic(), datetime.now(UTC)
        options = self.options
        wait_for_buckets()
        self._say(options.workers_note)
        environment = options.environment  # before the tracker, which makes its own MLflow this process's
        display = self._display()
        with (
            recorded(self.store.root, self._record(), display.progress) as result,
            display,
            ThreadPoolExecutor(max_workers=1) as opener,
        ):
            opening = opener.submit(self._tracker_to_open(display))
            try:
                if options.tracking_uri is not None:  # a server that does not answer is refused before Ray starts
                    opening.result()
                execution = Execution(self.recipe.name, self.steps, self.store, opening.result, display)
                execution.on_tracked = lambda node: self._register_early(execution.tracker, node, execution.complete)
                execution.look_at_rejected = options.look_again
                complete = self._execute(execution, environment)
                tracker = execution.tracker
                tracker.log_results(round(time.monotonic() - started, 1))
                holder = self._measure_holder(execution, tracker, display, environment)
                display.status("writing the report")
                results, result.report = self._report(execution.steps, complete, tracker, started, started_at)
                promotion = self._register(tracker, complete, note(results, result.report), holder)
                result.artifacts = _artifacts(execution.steps)
            except BaseException as error:
                if opening.exception() is None:
                    status = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
                    if status == "FAILED":
                        opening.result().describe(f"Failed: {escape_markdown(f'{type(error).__name__}: {error}')}")
                    self._say(opening.result().end(status))
                raise
            missing = tracker.end("FINISHED")
            display.status("")
            display.report(result.report)
        print_results(results, self.console)
        self._say(promotion)
        self._say(missing)
        return result.report

    def _execute(self, execution: Execution, environment: Mapping[str, str]) -> dict[str, Manifest]:
        if self.options.in_process:
            return _run_in_process(execution, environment)
        options = self.options
        needs = [step.node.resources for step in execution.steps if not step.have]
        return execution.run(partial(session, options.address, SOURCE_ROOT, options.num_cpus, environment, needs))

    def _measure_holder(
        self, execution: Execution, tracker: Tracker | NoTracker, display: Display, environment: Mapping[str, str]
    ) -> HolderResults | None:
        """Measures the model that holds the alias of --if-better by this run's test; None where that cannot be."""
        target, metric = self.options.register, self.options.if_better
        if self.encoder is None or target is None or metric is None:
            return None
        from pipeline.commands.running.holder import Holder, measure_holder
        from pipeline.engine.tracking.models import key_of_model

        try:
            key = key_of_model(tracker.uri, f"models:/{target}")
        except UsageError:  # nobody holds it, or MLflow is away: the registration will say which
            return None
        if key == execution.complete[self.encoder].key:
            return None
        holder = Holder(key=key, target=target, metric=metric, encoder=self.encoder)
        try:
            return measure_holder(execution, display, holder, lambda one: self._execute(one, environment))
        except (RunError, UsageError) as error:
            self._say(f"{target} could not be measured by this run's test: {error}")
            return None

    def _display(self) -> Display:
        names = [step.node.name for step in self.steps]
        expected_s = {step.node.name: step.expected_s for step in self.steps if not step.have}
        if self.options.log == "json":
            return JsonDisplay(self.recipe.name, names, write_line, expected_s)
        return Display(self.recipe.name, names, self.console, expected_s)

    def _record(self) -> RunRecord:
        return RunRecord(
            id="",
            name=self.recipe.name,
            recipe=self.recipe.name,
            plan=digest_of(step.node.key for step in self.steps),
            artifacts=_artifacts(self.steps),
            schedule=schedule_line(),
        )

    def _say(self, line: str) -> None:
        if line:
            self.console.print(printable_lines(line), highlight=False, markup=False, soft_wrap=True)

    def _tracker_to_open(self, display: Display) -> Callable[[], Tracker | NoTracker]:
        """Returns what opens the run's MLflow and begins the parent run, which takes seconds. Raises UsageError."""
        options = self.options
        if options.tracking and not (options.in_process and find_spec("mlflow") is None):
            display.status("opening MLflow")
            uri, description = options.tracking_uri or self.store.default_tracking_uri, self._description()
            return partial(_open_tracker, self.store, uri, self.recipe.name, options.experiment, description)
        reason = "--no-tracking" if not options.tracking else "mlflow is not installed"
        if options.register is not None:
            raise UsageError(f"--register {options.register} needs MLflow, and {reason}")
        self.console.print(f"this run is not recorded in MLflow: {reason}", highlight=False)
        return NoTracker

    def _description(self) -> RunDescription:
        values = asdict(self.options)
        how = flat({f"option.{name}": _shown(values[name]) for name in HOW_TO_RUN})
        if note := self.options.workers_note:
            how["workers"] = note.removeprefix("workers: ")
        named = dict(tag.split("=", 1) for tag in self.options.tag)
        head, dirty = commit()
        return RunDescription(
            command=self.command,
            name=self.options.run_name or run_name(self.recipe, self.options),
            params={name: _shown(value) for name, value in values.items() if name not in HOW_TO_RUN},
            tags={**how, **named},
            commit=head,
            dirty=dirty,
        )

    def _register_early(self, tracker: Tracker | NoTracker, node: Node, complete: dict[str, Manifest]) -> None:
        """Registers the encoder when it is there, long before the end of the run; its results are added then."""
        target = self.options.register
        if target is None or node.name != self.encoder:
            return
        name = target if self.options.if_better is None else target.partition("@")[0]
        description = model_description(self.recipe.name, complete[node.name], complete)
        try:
            registered = tracker.register(
                Registration(manifest=complete[node.name], target=name, description=description)
            )
        except UsageError as error:  # it is tried again at the end, when nothing can be lost by a failure
            self.console.print(f"not registered yet: {error}", highlight=False, markup=False)
        else:
            address = f": models:/{target}" if name == target else ""
            self.console.print(f"registered the encoder as {registered}{address}", highlight=False, markup=False)

    def _register(
        self, tracker: Tracker | NoTracker, complete: dict[str, Manifest], note: str, holder: HolderResults | None
    ) -> str:
        """Adds results to the registered encoder, and moves its alias if they say so; returns what became of it."""
        target, metric = self.options.register, self.options.if_better
        if self.encoder is None or target is None:
            return ""
        manifest = complete[self.encoder]
        description = f"{model_description(self.recipe.name, manifest, complete)}\n\n{note}"
        registered = tracker.register(
            Registration(
                manifest=manifest,
                target=target,
                run_id=tracker.parent_id,
                description=description,
                if_better=metric,
                holder=holder,
            )
        )
        return "" if metric is None else registered

    def _report(
        self,
        steps: list[Step],
        complete: dict[str, Manifest],
        tracker: Tracker | NoTracker,
        started: float,
        started_at: datetime,
    ) -> tuple[Results, str]:
        from pipeline.reporting.note import note
        from pipeline.reporting.report import write_report
        from pipeline.reporting.results import read_results
        from pipeline.reporting.view import NodeView, RunView

        nodes = tuple(NodeView.of(step, complete[step.node.name], self.store) for step in steps)
        head, dirty = commit()
        view = RunView(
            recipe=self.recipe.name,
            title=self.recipe.summary,
            command=self.command,
            started_at=started_at.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
            commit=head,
            dirty=dirty,
            store_uri=public(self.store.root),
            tracking_uri=tracker.uri,
            mlflow_page=tracker.page,
            nodes=nodes,
        )
        name = f"{self.recipe.name}-{started_at:%Y%m%dT%H%M%S}-{tracker.parent_id[:8]}"
        directory = join(self.store.root, REPORTS, name)
        results = read_results(view)
        report_uri = write_report(results, directory, self._since_the_run_before(tracker))
        tracker.report(directory, "report.html")
        tracker.describe(note(results, report_uri))
        return results, report_uri

    def _since_the_run_before(self, tracker: Tracker | NoTracker) -> Comparison | None:
        """Compares the run with that of its recipe before it; None where MLflow has none, or does not say."""
        if not tracker.page:
            return None
        from pipeline.engine.tracking.runs import results_and_those_before

        try:
            runs = results_and_those_before(tracker.uri, tracker.parent_id)
            return comparison_of(tracker.uri, runs) if len(runs) > 1 else None
        except UsageError as error:  # MLflow observes, and a report is written without it
            self._say(f"the report does not compare the run with the one before: {error}")
            return None


def _artifacts(steps: Sequence[Step]) -> tuple[str, ...]:
    return tuple(f"{step.node.stage.name}/{step.node.key}" for step in steps)


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_shown(item) for item in value)
    return masked(value) if isinstance(value, str) else value


def _run_in_process(execution: Execution, environment: Mapping[str, str]) -> dict[str, Manifest]:
    from pipeline.engine.in_process import InProcessSession, make_in_process

    os.environ.update({**THREAD_SETTINGS, **os.environ, **environment})  # before the first stage imports torch
    execution.max_in_flight, execution.make_stage = 1, make_in_process
    return execution.run(lambda: nullcontext(InProcessSession(lambda event: execution.handle_events([event]))))


def _open_tracker(store: Store, uri: str, recipe: str, experiment: str | None, description: RunDescription) -> Tracker:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pipeline.engine.tracking.tracker import Tracker

    tracker = Tracker(store, uri, recipe, experiment)
    tracker.start(description)
    return tracker
