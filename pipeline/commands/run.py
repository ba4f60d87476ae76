"""Makes what is missing of a recipe, on Ray, and reports.

percepts run demo
percepts run demo --plan
percepts run youtube --videos s3://bucket/clips --store s3://bucket/percepts --tracking-uri http://...
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.local_machine import check_local, cluster_address
from cluster.run_records import failures_recorded
from cluster.session import check_reachable
from pipeline.commands.running.recipe_options import build_plan, parse
from pipeline.core.addresses.servers import check_mlflow
from pipeline.core.errors import UsageError
from pipeline.core.files import absolute, exists, is_local, join
from pipeline.core.secrets import masked, public
from pipeline.engine.store import DEFAULT_STORE
from pipeline.recipes.recipe import RECIPES, Recipe, load_recipe
from pipeline.recipes.run_options import RunOptions

if TYPE_CHECKING:  # A wrong recipe or flag is answered without the libraries that making needs.
    from rich.console import Console

    from pipeline.engine.plan import Plan
    from pipeline.engine.status import Step
    from pipeline.engine.store import Store

PROGRAM = "percepts run"
ENCODER_STAGES = ("pretrain", "import_encoder")
PLAIN_COLUMNS = 150
"""The width of output that goes into a file or a pipe."""


def main(arguments: Sequence[str], program: str = PROGRAM) -> int:
    """Parses, plans, makes and reports. Returns the exit status.

    Raises:
        UsageError: the arguments break a rule, or ask for something that cannot be done.
        RunError: a stage failed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(program))
        return 0 if arguments else 2
    recipe = load_recipe(arguments[0])
    options = parse(recipe, arguments[1:], f"{program} {recipe.name}")
    with failures_recorded(options.store):
        return _run(recipe, options, masked(shlex.join([*program.split(), *arguments])))


def _run(recipe: Recipe, options: RunOptions, command: str) -> int:
    plan = build_plan(recipe, options)
    if options.plan:
        _print_plan(plan, options)
        return 0
    _refuse_to_lose(options)
    _check_tracking(options)
    _check_machine(options)
    encoder = None if options.register is None else _encoder_of(plan, options.register)
    from pipeline.commands.running.recipe_run import RecipeRun
    from pipeline.engine.status import look_up
    from pipeline.engine.store import Store

    store = Store.open(options.store, create=True)
    store.check_writable()
    run = RecipeRun(
        recipe=recipe,
        options=options,
        steps=look_up(plan, store, look_at_rejected=options.look_again),
        store=store,
        command=command,
        console=_console(is_log_json=options.log == "json"),
        encoder=encoder,
    )
    if options.joins_cluster and not all(step.have for step in run.steps):
        check_reachable(cluster_address(options.address) or "")  # before MLflow, which takes seconds
    if not options.joins_cluster:
        _check_decoder(run.steps)
    report_uri = run.make()
    if options.log != "json":
        # A terminal opens a link; a program reads an address.
        print(Path(report_uri).as_uri() if sys.stdout.isatty() and is_local(report_uri) else public(report_uri))
    return 0


def _console(*, is_log_json: bool = False) -> Console:
    from rich.console import Console

    if is_log_json:  # stdout holds JSON lines alone
        return Console(stderr=True, width=PLAIN_COLUMNS, emoji=False)
    if sys.stdout.isatty():
        return Console(emoji=False)
    # Not a terminal, whatever FORCE_COLOR says, which continuous integration sets: nothing there can move a cursor.
    return Console(width=PLAIN_COLUMNS, emoji=False, force_terminal=False, color_system=None)


def _print_plan(plan: Plan, options: RunOptions) -> None:
    from pipeline.engine.bill import with_bill
    from pipeline.engine.status import look_up, plan_notes, plan_table

    console, store = _console(), _store_to_look_at(options)
    looked_up = look_up(plan, store, options.costs.assumed, look_at_rejected=options.look_again)
    steps, bill = with_bill(looked_up, options.costs, store, getattr(options, "videos", ()))
    console.print(plan_table(plan.recipe, steps))
    for line in filter(None, [options.workers_note, *plan_notes(steps), *bill]):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _encoder_of(plan: Plan, register: str) -> str:
    """Returns the name of the one node that makes an encoder. Raises UsageError where there is not exactly one."""
    made = [node for node in plan.nodes if node.stage.name in ENCODER_STAGES]
    started_from = {parent.name for node in made for parent in node.parents}
    encoders = [node.name for node in made if node.name not in started_from]
    if len(encoders) != 1:
        raise UsageError(
            f"--register {register} names one encoder, and this recipe makes {len(encoders)} ({', '.join(encoders)}): "
            "choose one of --models, or leave --register out"
        )
    return encoders[0]


def _usage(program: str) -> str:
    lines = [f"  {name:<14} {summary}" for name, (_, summary) in RECIPES.items()]
    head = f"usage: {program} RECIPE [options]    ({program} RECIPE --help explains its options)"
    return "\n".join([head, "", "recipes:", *lines])


def _store_to_look_at(options: RunOptions) -> Store:
    """Opens the store if there is one: a plan must not begin one."""
    from pipeline.engine.store import STORE_FILE, Store, check_new

    if not options.store.strip():
        check_new(options.store)
    if exists(join(absolute(options.store), STORE_FILE)):
        return Store.open(options.store)
    check_new(options.store)
    return Store(absolute(options.store))


def _check_machine(options: RunOptions) -> None:
    """Raises UsageError for a cache that this machine could not have, or what its local Ray could not give."""
    from stages.percepts.node_cache import NodeCache

    cache = NodeCache.of_environment(directory=options.cache)
    if options.joins_cluster:
        return
    if not is_local(options.store):
        cache.usable_directory()
    if options.in_process:
        return
    to_train = options.to_train
    check_local(
        num_cpus=options.num_cpus,
        cpus_per_worker=to_train.cpus_per_worker,
        gpus_per_worker=to_train.gpus_per_worker,
        min_workers=to_train.min_workers,
    )


def _check_decoder(steps: Sequence[Step]) -> None:
    """Raises ConfigError where frames are to be decoded on a GPU of this machine that does not decode."""
    configs = [step.node.config for step in steps if step.node.stage.name == "extract" and not step.have]
    if not configs:
        return  # not every recipe has the libraries of video
    from stages.extraction.config import ExtractionConfig
    from stages.video.container import check_cuda_decoder

    if any(isinstance(config, ExtractionConfig) and config.decode.hardware == "cuda" for config in configs):
        check_cuda_decoder()


def _check_tracking(options: RunOptions) -> None:
    """Raises UsageError where nothing listens at --tracking-uri and no MLflow ever answered there to this store."""
    from pipeline.core.outbox import answered

    uri = options.tracking_uri if options.tracking else None
    if uri is not None and public(uri) not in answered(absolute(options.store)):
        check_mlflow(uri)


def _refuse_to_lose(options: RunOptions) -> None:
    from cluster.ray_private import is_ray_job

    if is_ray_job() and options.store == DEFAULT_STORE:
        raise UsageError(
            "a job's working directory is thrown away with the job; pass --store a lasting directory or URL"
        )
