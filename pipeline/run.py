"""THE ENTRY: make what is missing of a recipe, on Ray, and report.

python pipeline/run.py demo
python pipeline/run.py demo --plan
python pipeline/run.py youtube --videos s3://bucket/clips --store s3://bucket/percepts --tracking-uri http://...
ray job submit --working-dir . -- python pipeline/run.py demo --store /shared/percepts
"""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Python put pipeline/ itself on the path, where `plan` or `store` could shadow other packages.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from cluster.ray_private import is_ray_job
from cluster.session import session
from pipeline.commands.command_line import parse_options, run_command
from pipeline.core.errors import UsageError
from pipeline.core.files import join
from pipeline.engine.cost_estimates import with_bill
from pipeline.engine.display import Display
from pipeline.engine.execute import Execution
from pipeline.engine.plan import Plan
from pipeline.engine.provenance import SOURCE_ROOT, commit
from pipeline.engine.status import Step, look_up, plan_table
from pipeline.engine.store import Manifest, Store
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.registry import RECIPES, load_recipe
from pipeline.recipes.run_options import RunOptions

if TYPE_CHECKING:
    from pipeline.engine.tracking import Tracker

REPORTS = "reports"
ENCODER_STAGES = ("pretrain", "import_encoder")
PLAIN_COLUMNS = 150
"""Width of what is printed into a file or a pipe."""


def main(arguments: list[str] | None = None) -> int:
    """Parse, plan, make, report. Returns the exit status; raises UsageError and RunError for `run_command`."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help"):
        print(_usage())
        return 0 if given else 2
    recipe = load_recipe(given[0])
    options = parse(recipe, given[1:])
    console = Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS)
    plan = recipe.build(options)
    if options.plan:
        store = _store_to_look_at(options)
        looked_up = look_up(plan, store, options.costs.assumed)
        steps, bill = with_bill(looked_up, options.costs, store, getattr(options, "videos", ()))
        console.print(plan_table(plan.recipe, steps))
        for line in bill:
            console.print(line, highlight=False, soft_wrap=True)
        return 0
    _refuse_to_lose(options)
    encoder = None if options.register is None else _encoder_of(plan, options.register)
    store = Store.open(options.store, create=True)
    store.check_writable()
    command = shlex.join(["python", "pipeline/run.py", *given])
    print(_run(recipe, options, look_up(plan, store), store, command, console, encoder))
    return 0


def parse(recipe: Recipe, arguments: list[str]) -> RunOptions:
    """The recipe's options from its flags.

    Raises:
        UsageError: a flag is unknown or its value breaks a rule; `--help` prints and leaves with SystemExit 0.
    """
    options: RunOptions = parse_options(
        recipe.options, arguments, prog=f"run.py {recipe.name}", description=recipe.summary
    )
    return options


def _run(
    recipe: Recipe,
    options: RunOptions,
    steps: list[Step],
    store: Store,
    command: str,
    console: Console,
    encoder: str | None,
) -> str:
    started, started_at = time.monotonic(), datetime.now(UTC)
    tracking_uri = options.tracking_uri or store.default_tracking_uri
    environment = options.environment  # before the tracker, which makes its own MLflow this process's
    with Display(recipe.name, [step.node.name for step in steps], console) as display:
        display.status("opening MLflow")
        tracker = _open_tracker(store, tracking_uri, recipe.name)
        tracker.start(command, asdict(options), commit()[0])
        try:
            execution = Execution(recipe.name, steps, store, tracker, display)
            open_session = partial(session, options.address, SOURCE_ROOT, options.num_cpus, environment)
            complete = execution.run(open_session)
            if encoder is not None and options.register is not None:
                made = tracker.register(complete[encoder], options.register)
                console.print(f"registered the encoder as {made}: models:/{options.register}", highlight=False)
            display.status("writing the report")
            report_uri = _report(recipe, steps, complete, store, tracker, command, started, started_at, console)
        except BaseException as error:
            tracker.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        tracker.end("FINISHED")
        display.status("")
    return report_uri


def _encoder_of(plan: Plan, register: str) -> str:
    """Name of the one node that makes an encoder. Raises UsageError where there is none, or there are several."""
    found = [node.name for node in plan.nodes if node.stage.name in ENCODER_STAGES]
    if len(found) != 1:
        raise UsageError(
            f"--register {register} names one encoder, and this recipe makes {len(found)} ({', '.join(found)}): "
            "choose one of --models, or leave --register out"
        )
    return found[0]


def _open_tracker(store: Store, tracking_uri: str, recipe_name: str) -> Tracker:
    # MLflow and Ray take seconds to import: at the same time they take half as many.
    def importing() -> Tracker:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pipeline.engine.tracking import Tracker

        return Tracker(store, tracking_uri, recipe_name)

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(importing).result()


def _report(
    recipe: Recipe,
    steps: list[Step],
    complete: dict[str, Manifest],
    store: Store,
    tracker: Tracker,
    command: str,
    started: float,
    started_at: datetime,
    console: Console,
) -> str:
    from pipeline.reporting.report import NodeView, RunView, print_report, write_report

    nodes = tuple(NodeView.of(step, complete[step.node.name], store) for step in steps)
    head, dirty = commit()
    view = RunView(
        recipe=recipe.name,
        title=recipe.summary,
        command=command,
        started_at=started_at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        commit=head,
        dirty=dirty,
        store_uri=store.root,
        tracking_uri=tracker.uri,
        nodes=nodes,
    )
    directory = join(store.root, REPORTS, f"{recipe.name}-{started_at:%Y%m%dT%H%M%S}-{tracker.parent_id[:8]}")
    report_uri = write_report(view, directory)
    tracker.report(directory, "report.html")
    print_report(view, console)
    return report_uri


def _usage() -> str:
    lines = [f"  {name:<14} {summary}" for name, (_, summary) in RECIPES.items()]
    head = "usage: python pipeline/run.py RECIPE [--plan] [options]    (RECIPE --help explains each option)"
    return "\n".join([head, "", "recipes:", *lines])


def _store_to_look_at(options: RunOptions) -> Store:
    """A plan may look at a store that is not there yet, and must not begin one."""
    from pipeline.core.files import absolute, exists
    from pipeline.engine.store import STORE_FILE

    if exists(join(absolute(options.store), STORE_FILE)):
        return Store.open(options.store)
    return Store(absolute(options.store))


def _refuse_to_lose(options: RunOptions) -> None:
    if is_ray_job() and options.store == RunOptions.store:
        raise UsageError(
            "a job's working directory is thrown away with the job; pass --store a lasting directory or URL"
        )


if __name__ == "__main__":
    run_command(main)
