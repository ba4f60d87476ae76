"""Submits a run of a recipe to a cluster as a Ray job, and follows it.

    percepts submit youtube --videos s3://bucket/clips --store s3://bucket/percepts --tracking-uri http://mlflow:5000
    percepts submit youtube ... --wait --if-running skip        what a scheduler calls, at any time and twice

Takes every option of `percepts run RECIPE`. Submitting the same again joins the run. Ctrl-C leaves it running.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

from cluster.claims import claim, free_id
from cluster.code_package import code_package
from cluster.rendering.schedule import schedule_line
from cluster.run_records import (
    FAILED,
    INTERRUPTED,
    RUN_ID_VARIABLE,
    SUBMITTED,
    RunRecord,
    close_record,
    now_text,
    write_record,
)
from cluster.submission import NAME, PLAN, STOPPED, STORE, SUCCEEDED, JobServer, Submission, SubmittedJob, say
from pipeline.commands.running.recipe_options import build_plan, parse
from pipeline.core.addresses.model_uris import MODEL_SCHEMES
from pipeline.core.errors import ConfigError, RunError, UsageError
from pipeline.core.files import absolute, exists, is_local, read_bytes
from pipeline.core.secrets import has_secrets, masked
from pipeline.engine.keys import digest_of
from pipeline.engine.provenance import COMMIT_VARIABLE, SOURCE_ROOT, commit
from pipeline.engine.store import Store
from pipeline.options.command_line import HELP, parse_options, print_help
from pipeline.options.flags import list_options
from pipeline.options.help import full_help
from pipeline.recipes.existing_models import KEY
from pipeline.recipes.recipe import load_recipe

PROGRAM: Final = "percepts submit"
CONFIG: Final = "run.toml"
"""The name of the --config file in the package."""
PLACES: Final = frozenset(
    (
        *("videos", "links", "unlabelled", "lists", "mnist", "pin", "yt_dlp_options"),
        *("encoder", "classifier", "warm_start", "weights"),
    )
)
"""The names of options whose values are places of files, or keys and names of models."""
WAIT_S: Final = 20.0
"""The pause between two looks at a run that is waited for, seconds."""


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Options of the submission; every other option is the recipe's."""

    dashboard: str | None = None
    """Address of the head that takes jobs, http://HOST:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else this
    machine."""
    name: str | None = None
    """Name of the run, of which only one goes on at a time; default: the recipe."""
    wait: bool = False
    """Wait for the end, through lost connections: the status is then the run's (0 succeeded, 1 did not). Without it, a
    head that does not answer any more ends the following, and with it the command."""
    if_running: str = "start"
    """Another run of the store that goes on, started from anywhere: start beside it, skip this one, or wait for it."""
    on_failure: str | None = None
    """Shell command that is run here after a run that did not succeed; PERCEPTS_RUN_ID, PERCEPTS_STATUS and
    PERCEPTS_STORE are in its environment. Needs --wait."""
    queue: bool = False
    """Take turns with other jobs: the driver waits for the head's resource `run`, which rendered clusters have."""
    by_options: bool = False
    """Identify the run by its options instead of its plan, where only the cluster can list the videos."""

    def __post_init__(self) -> None:
        if self.if_running not in ("start", "skip", "wait"):
            raise ConfigError(f"--if-running is {self.if_running!r}; it must be start, skip or wait")
        if self.on_failure is not None and not self.wait:
            raise ConfigError("--on-failure needs --wait: without it, the end of the run is not awaited")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run to be submitted, with what identifies it."""

    recipe: str
    arguments: tuple[str, ...]
    name: str
    store: str
    plan: str
    """The digest of the plan's keys, or of the options."""

    @property
    def metadata(self) -> dict[str, str]:
        """The marks by which the job is found again."""
        return {PLAN: self.plan, NAME: self.name, STORE: self.store}


def main(arguments: Sequence[str]) -> int:
    """Submits, follows and reports the end. Returns the exit status.

    Raises:
        UsageError: the arguments break a rule, no head takes jobs, or the name is taken by another plan.
        RunError: the run did not succeed, or the head does not answer any more.
    """
    if not arguments or any(word in HELP for word in arguments):
        summary = f"{SubmitOptions.__doc__} `percepts run RECIPE --help` explains those."
        print_help(full_help(f"{PROGRAM} RECIPE", summary, list_options(SubmitOptions)))
    recipe_name, *words = arguments
    own, rest = split(words)
    options = parse_options(SubmitOptions, own, prog=PROGRAM)
    request = identify(recipe_name, rest, options)

    server = JobServer.connect(options.dashboard)
    job = _same_run(server, request)
    if job is not None:
        say(f"joining {job.id} on {server.address}, which makes the same")
    elif (record := _claim(server, request, options)) is None:
        return 0
    else:
        job = _submit(server, request, options, record)
        say(f"submitted {job.id} to {server.address}")
    return _follow(server, job, request, options)


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the words that are options of the submission, and those of the recipe."""
    flags = {option.name: option.kind is bool for option in list_options(SubmitOptions)}
    own: list[str] = []
    rest: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, has_value, _ = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        if not word.startswith("--") or name.removeprefix("no-") not in flags:
            rest.append(word)
            continue
        own.append(word)
        if not has_value and not flags[name.removeprefix("no-")]:
            own += remaining[:1]
            del remaining[:1]
    return own, rest


def identify(recipe_name: str, arguments: Sequence[str], options: SubmitOptions) -> Request:
    """Returns the run with the digest of its plan. Lists the videos, unless `options.by_options`.

    Raises:
        UsageError: an option is wrong, the store would be lost with the job, or a video source cannot be listed here.
    """
    recipe = load_recipe(recipe_name)
    config = "".join(_with_config(arguments)[1].values())
    in_file = read_bytes(config).decode(errors="replace").splitlines() if config and exists(config) else []
    if secret := next((word for word in [*arguments, *in_file] if has_secrets(word)), None):
        raise UsageError(
            f"{masked(secret)!r} was given with a password or a signature, which a job's command or files show to "
            "others: leave it out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (for a bucket, its "
            "own variables) in the environment of the head; name signed videos in a list"
        )
    if "--plan" in arguments:
        raise UsageError(f"--plan starts nothing that could be submitted; use `percepts plan {recipe_name}`")
    parsed = parse(recipe, arguments, f"{PROGRAM} {recipe_name}")
    if _is_relative(parsed.store):
        raise UsageError(
            f"--store is {parsed.store!r}, which a job would look for in its own directory, and lose; "
            "pass --store a URL, or the absolute path of a directory that the cluster shares"
        )
    for option in list_options(recipe.options):
        if option.path.rpartition(".")[2] not in PLACES:
            continue
        value = attrgetter(option.path)(parsed)
        if relative := next(filter(_is_relative, value if isinstance(value, tuple) else [value or "/"]), None):
            raise UsageError(
                f"--{option.name} has {relative!r}, which a job would look for in its own directory; "
                "pass a URL, or an absolute path that the cluster shares"
            )
    return Request(
        recipe=recipe_name,
        arguments=tuple(arguments),
        name=options.name or recipe_name,
        store=absolute(parsed.store),
        plan=digest_of([recipe_name, *arguments]) if options.by_options else build_plan(recipe, parsed).digest,
    )


def _is_relative(uri: str) -> bool:
    if uri.startswith(MODEL_SCHEMES) or KEY.fullmatch(uri):
        return False
    return is_local(uri) and not uri.startswith(("/", "file:///"))


def _same_run(server: JobServer, request: Request) -> SubmittedJob | None:
    """Returns the job of the same plan and store that goes on, if there is one."""
    wanted = {STORE: request.store, PLAN: request.plan}.items()
    return next((job for job in server.jobs() if not job.has_ended and wanted <= job.metadata.items()), None)


def _claim(server: JobServer, request: Request, options: SubmitOptions) -> RunRecord | None:
    """Returns the record that the new run has in the store; None where another run goes on and this one is skipped.

    Raises:
        UsageError: a run of the same name goes on, and is neither to be skipped nor waited for.
    """
    # The record lies in the store, which the job would otherwise find as a directory of other files.
    Store.open(request.store, create=True)
    is_exclusive, waited_for = options.if_running != "start", ""
    while True:
        record = RunRecord(
            id=free_id(server, request.store, request.name, request.plan),
            name=request.name,
            recipe=request.recipe,
            plan=request.plan,
            dashboard=server.address,
            schedule=schedule_line(),
            submitted_at=now_text(),
        )
        other = claim(server, request.store, record, lambda run: is_exclusive or run.name == request.name)
        if other is None:
            return record
        if options.if_running == "skip":
            say(f"skipped: {other.id} goes on in {request.store} (since {other.begun_at})")
            return None
        if options.if_running == "start":
            which = "that makes the same" if other.plan == request.plan else "with another plan"
            raise UsageError(
                f"a run named {request.name!r} {which} goes on, {other.id}: wait for it by "
                f"--if-running wait, stop it by `{server.stop(other.id)}`, or give another --name"
            )
        if other.id != waited_for:
            say(f"waiting for {other.id}, which goes on in {request.store}")
            waited_for = other.id
        time.sleep(WAIT_S)


def _submit(server: JobServer, request: Request, options: SubmitOptions, record: RunRecord) -> SubmittedJob:

    arguments, files = _with_config(request.arguments)
    head, is_dirty = commit()
    environment = {RUN_ID_VARIABLE: record.id}
    if head is not None:
        environment[COMMIT_VARIABLE] = head + ("+" if is_dirty else "")
    try:
        with code_package(SOURCE_ROOT, files) as package:
            say(f"{package.summary}; commit {environment.get(COMMIT_VARIABLE, 'unknown')}")
            submission = Submission(
                id=record.id,
                entrypoint=shlex.join(["python", "-m", "pipeline.run", request.recipe, *arguments]),
                working_dir=package.directory,
                environment=environment,
                metadata=request.metadata,
                resources={"run": 1} if options.queue else {},
            )
            write_record(request.store, replace(record, status=SUBMITTED))
            return server.submit(submission)
    except BaseException as error:
        close_record(request.store, record.id, FAILED, error)
        raise


def _with_config(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Returns the arguments as the job sees them, and the --config file that travels with it."""
    changed = list(arguments)
    for place, word in enumerate(arguments):
        if word == "--config" and place + 1 < len(arguments):
            changed[place + 1] = CONFIG
            return changed, {CONFIG: arguments[place + 1]}
        if word.startswith("--config="):
            changed[place] = f"--config={CONFIG}"
            return changed, {CONFIG: word.partition("=")[2]}
    return changed, {}


def _follow(server: JobServer, job: SubmittedJob, request: Request, options: SubmitOptions) -> int:

    started = time.monotonic()
    try:
        ended = server.follow(job.id, _write, through_losses=options.wait)
    except KeyboardInterrupt:
        say(
            f"\n{job.id} goes on.\n  follow it   {server.attach(job.id)}\n  stop it     {server.stop(job.id)}\n"
            "  join it     the same `percepts submit` again"
        )
        return 130
    line = f"{job.id} {ended.status.lower()} ({time.monotonic() - started:.0f} s followed)"
    if ended.status == SUCCEEDED:
        say(line)
        return 0
    # The driver writes this itself, unless it never began or was killed.
    status = INTERRUPTED if ended.status == STOPPED else FAILED
    close_record(request.store, job.id, status, ended.message)
    if options.on_failure is not None:
        _tell(options.on_failure, request, ended)
    raise RunError(f"{line}: {ended.message or 'see the log above'}")


def _tell(command: str, request: Request, job: SubmittedJob) -> None:

    variables = {"PERCEPTS_RUN_ID": job.id, "PERCEPTS_STATUS": job.status, "PERCEPTS_STORE": request.store}
    status = subprocess.run(command, shell=True, env=os.environ | variables, check=False).returncode
    if status:
        say(f"--on-failure {command!r} ended with status {status}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
