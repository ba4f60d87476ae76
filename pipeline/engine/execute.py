"""The execution of a plan: each missing stage starts as a Ray task as soon as its inputs are complete."""

from __future__ import annotations

import os
import resource
import time
import uuid
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from cluster.placement import take_what_is_there
from cluster.session import FinishedTask
from pipeline.core.errors import CorruptArtifact, PerceptsError, StageFailed, UsageError
from pipeline.core.events import Emit, Event, Log, Metrics, NodeUsage, Waiting
from pipeline.core.files import TEMPORARY_MARK, join, remove
from pipeline.core.printable import human_bytes
from pipeline.core.secrets import known, learn
from pipeline.core.stage import Artifact, Context, Stage, config_dict
from pipeline.core.workers import Workers
from pipeline.engine.display import Display
from pipeline.engine.order import remaining_seconds, startable
from pipeline.engine.plan import Node, Plan, with_inputs
from pipeline.engine.provenance import commit, libraries
from pipeline.engine.status import Step, expected_seconds, look_up
from pipeline.engine.store import TRAIN_SCRATCH, Manifest, Store

if TYPE_CHECKING:  # workers import this module and must not import MLflow
    from pipeline.engine.tracking.no_tracking import NoTracker
    from pipeline.engine.tracking.tracker import Tracker

POLL_SECONDS = 0.25
MAX_IN_FLIGHT = max(4, os.cpu_count() or 1)
"""The number of stages in flight. Each has a process of some 400 MB on the driver's node, and more of them would only
queue for the same workers."""


class AnySession(Protocol):
    """The tasks in flight, on Ray or in this process."""

    @property
    def emit(self) -> Emit: ...

    def start(self, name: str, function: Callable[..., Any], *args: Any) -> None: ...

    def finished(self, timeout_seconds: float) -> list[FinishedTask]: ...

    def events(self) -> list[Event]: ...

    def cancel(self) -> None: ...


LISTING = "listing.parquet"
"""Name of the file with a stage's listing, in its directory; each run has its own, and removes it at the end."""

OpenSession = Callable[[], AbstractContextManager[AnySession]]


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """The input of a Ray task that makes one artifact. It pickles."""

    stage: Stage[Any, ..., Any]
    config: Any
    inputs: dict[str, Artifact | tuple[Artifact, ...] | None]
    context: Context
    """The context without the workers."""
    manifest: Manifest
    """The manifest without the fields that are known only at the end."""
    looked_at: Manifest | None = None
    """The artifact of which what could not be read is looked at again."""
    addresses: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Addresses with their secrets, by the public ones that are written down."""


def make(task: StageTask) -> Manifest:
    """Makes one artifact, writes its manifest last, and returns the manifest; runs inside a Ray task."""
    from cluster.workers import RayWorkers

    context = task.context
    scratch = join(context.store_uri, TRAIN_SCRATCH, context.key)
    waits = Waits(context.emit)
    return make_with(task, RayWorkers(source=context.source, emit=waits, scratch_uri=scratch), waits)


@dataclass
class Waits:
    """Passes events on, and adds up how long the stage has waited for its workers."""

    emit: Emit
    ended_s: float = 0.0
    current_s: float = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Waiting):
            self.current_s = event.seconds
            if not event.reason:
                self.ended_s, self.current_s = self.ended_s + event.seconds, 0.0
        self.emit(event)

    @property
    def seconds(self) -> float:
        """All waits; the end of one is not always reported."""
        return self.ended_s + self.current_s


def make_with(task: StageTask, workers: Workers, waits: Waits | None = None) -> Manifest:
    """Makes one artifact with the given workers, writes its manifest last, and returns the manifest.

    waits: those of the workers, which are not part of the manifest's seconds.

    A renewed look that finds nothing leaves no artifact: the manifest is that of the one that it looked at.
    """
    learn(task.addresses)
    draft, context = task.manifest, replace(task.context, workers=workers)
    store = Store(context.store_uri)
    started = time.monotonic()
    _check_inputs(store, task)
    artifact = task.stage(task.config, context, **task.inputs)
    assert type(artifact) is task.stage.produces, f"{draft.stage} returned a {type(artifact).__name__}"
    if context.listing_uri is not None:
        remove(context.listing_uri)
    if task.looked_at is not None and artifact.has_same_videos(task.stage.produces(str(context.looked_at_uri))):
        remove(context.uri)
        return task.looked_at
    manifest = replace(
        draft,
        outputs=store.outputs(draft.stage, draft.key),
        facts=dict(context.facts),
        seconds=round(max(time.monotonic() - started - (waits.seconds if waits else 0.0), 0.0), 3),
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    store.commit(manifest)
    return manifest


def _check_inputs(store: Store, task: StageTask) -> None:
    """Hashes what the stage will read against its manifests. Raises CorruptArtifact."""
    for value in task.inputs.values():
        for artifact in value if isinstance(value, tuple) else (value,) if value is not None else ():
            stage_name = artifact.uri.rstrip("/").split("/")[-2]
            manifest = store.find(stage_name, artifact.key)
            if manifest is None:
                raise CorruptArtifact(f"{artifact.uri} has lost its manifest; run this command again")
            store.check(manifest)


@dataclass
class Execution:
    """A run of a plan."""

    recipe: str
    steps: list[Step]
    store: Store
    open_tracker: Callable[[], Tracker | NoTracker]
    """Called once, before the first stage starts or is reused; meanwhile Ray starts."""
    display: Display
    max_in_flight: int = MAX_IN_FLIGHT
    make_stage: Callable[[StageTask], Manifest] = make
    on_tracked: Callable[[Node], None] = lambda node: None
    """Called with each node once its artifact is complete and logged, made now or reused."""
    look_at_rejected: bool = False
    """Look again at every rejected video, also where its bytes were the reason."""
    complete: dict[str, Manifest] = field(default_factory=dict)
    _run_ids: dict[str, Any] = field(default_factory=dict)
    _begun: set[str] = field(default_factory=set)
    """The names of stages that have said anything: they have their workers, or say what they wait for."""
    _untracked: list[tuple[Node, Manifest]] = field(default_factory=list)
    _commit: tuple[str | None, bool | None] = field(default_factory=commit)

    @cached_property
    def tracker(self) -> Tracker | NoTracker:
        """The tracker of the run."""
        return self.open_tracker()

    def run(self, open_session: OpenSession) -> dict[str, Manifest]:
        """Makes the missing artifacts and returns node name -> manifest. Ray starts only if an artifact is missing.

        Raises:
            StageFailed: a stage raised an exception. Finished artifacts stay; the other stages are stopped.
            UsageError: a stage cannot be carried out, as with weights of another digest.
            CorruptArtifact: a file of a complete artifact is not what its manifest says.
        """
        is_to_look = any(step.num_to_look_at for step in self.steps)
        if not is_to_look:
            self._reuse(self.steps)
        if is_to_look or any(step.manifest is None for step in self.steps):
            self.display.status("starting Ray" if self.make_stage is make else "")
            with open_session() as session:
                self.display.status("")
                self._look_again(session)
                self._make_all([step.node for step in self.steps if step.node.name not in self.complete], session)
        return self.complete

    def _reuse(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if step.manifest is not None and step.node.name not in self.complete:
                # The report reads it, and so may a stage.
                self.store.check(step.manifest)
                self.complete[step.node.name] = step.manifest
                inputs = [self.complete[parent.name] for parent in step.node.parents if parent.name in self.complete]
                self.tracker.reuse(step.node, step.manifest, inputs)
                self._check(step.node)
                self.on_tracked(step.node)
                self.display.reused(step.node.name, human_bytes(step.manifest.num_bytes_made))

    def _look_again(self, session: AnySession) -> None:
        """Looks again at what could not be read, inputs before what is made of them, and reuses what is complete."""
        seen: set[str] = set()
        while (place := _first_look(self.steps, seen)) is not None:
            step = self.steps[place]
            seen.add(step.node.name)
            self._reuse(self.steps[:place])
            self._make_all([with_inputs(step.node, step.node.inputs, step.node.look + 1)], session, step.manifest)
            plan = Plan(self.recipe, [step.node for step in self.steps])
            self.steps = look_up(plan, self.store, look_at_rejected=self.look_at_rejected)
        made = seen & set(self.complete)
        self._reuse(self.steps)
        self.steps = [replace(step, manifest=None) if step.node.name in made else step for step in self.steps]

    def _make_all(self, waiting: list[Node], session: AnySession, looked_at: Manifest | None = None) -> None:
        running: dict[str, Node] = {}
        remaining = remaining_seconds(self.steps)
        try:
            while waiting or running:
                not_begun = [node for name, node in running.items() if name not in self._begun]
                ready = startable(waiting, self.complete, not_begun, remaining)
                for planned in ready[: self.max_in_flight - len(running)]:
                    waiting.remove(planned)
                    node = running[planned.name] = self._with_workers(planned)
                    try:
                        self._start(node, session, looked_at)
                    except Exception as error:  # without Ray a stage runs, and fails, while it is started
                        if (run_id := self._run_ids.get(node.name)) is not None:
                            self.tracker.fail_stage(run_id, f"{type(error).__name__}: {error}")
                        del running[node.name]
                        raise
                self._track_finished()
                finished = session.finished(POLL_SECONDS)
                self.handle_events(session.events())
                for task in finished:
                    self._end(running.pop(task.name), task)
            self.handle_events(session.events())  # events of a stage may arrive after its result
            self._track_finished()
        except BaseException:
            session.cancel()
            for name in running:
                self.tracker.end_stage(self._run_ids[name], "KILLED")
            raise

    def _with_workers(self, node: Node) -> Node:
        """Returns the node with the workers that a cluster has room for now, where that was left to it."""
        if not (node.resources.is_auto_workers or node.resources.is_auto_gpus):
            return node
        resources, words = take_what_is_there(node.resources)
        self.display.handle(Log(source=node.name, line=words))
        return replace(node, resources=resources)

    def _start(self, node: Node, session: AnySession, looked_at: Manifest | None) -> None:
        inputs = [self.complete[parent.name] for parent in node.parents]
        run_id = self.tracker.start_stage(node, inputs, self._commit[0])
        self._run_ids[node.name] = run_id
        self.display.start(node.name)
        manifest = Manifest(
            stage=node.stage.name,
            version=node.stage.version,
            key=node.key,
            name=node.name,
            recipe=self.recipe,
            config=config_dict(node.config),
            inputs=node.input_keys(),
            snapshot=node.snapshot,
            holds=node.stage.produces.holds,
            mlflow_run_id=run_id,
            expected_s=expected_seconds(node, self.complete),
            commit=self._commit[0],
            dirty=self._commit[1],
            libraries=libraries(),
        )
        uri, listing_uri = self.store.directory(node.stage.name, node.key), None
        if node.listing is not None:
            # Marked as an unfinished write, so that it is no output of the artifact and a leftover is known as one.
            listing_uri = join(uri, f"{LISTING}{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}")
            node.listing.write(listing_uri)
        context = Context(
            uri=uri,
            store_uri=self.store.root,
            key=node.key,
            source=node.name,
            resources=node.resources,
            emit=session.emit,
            listing_uri=listing_uri,
            looked_at_uri=None if looked_at is None else self.store.directory(looked_at.stage, looked_at.key),
            looks_at_rejected=self.look_at_rejected,
        )
        task = StageTask(
            stage=node.stage,
            config=node.config,
            inputs={edge: self._artifacts(value) for edge, value in node.inputs.items()},
            context=context,
            manifest=manifest,
            looked_at=looked_at,
            addresses=known(),
        )
        session.start(node.name, self.make_stage, task)

    def _artifacts(self, value: Node | tuple[Node, ...] | None) -> Any:
        if isinstance(value, tuple):
            return tuple(self._artifacts(node) for node in value)
        if value is None:
            return None
        return value.stage.produces(self.store.directory(value.stage.name, value.key), value.key)

    def handle_events(self, events: list[Event]) -> None:
        """Shows events of running stages, and adds their metrics, and those of machines, to the curves of runs."""
        for event in events:
            if isinstance(event, NodeUsage):
                self.tracker.node_usage(event.source, event.values)
                continue
            self.display.handle(event)
            self._begun.add(event.source)
            if isinstance(event, Metrics) and event.source in self._run_ids:
                self.tracker.metrics(self._run_ids[event.source], event.step, event.values)

    def _end(self, node: Node, task: FinishedTask) -> None:
        run_id = self._run_ids[node.name]
        if task.error is not None:
            reason = f"{type(task.error).__name__}: {task.error}"
            self.display.failed(node.name)
            self.tracker.fail_stage(run_id, reason)
            where = f"stage {node.name!r} (key {node.key})"
            if isinstance(task.error, UsageError):
                raise _with_location(task.error, where) from task.error
            detail = str(task.error) if isinstance(task.error, PerceptsError) else reason
            raise StageFailed(f"{where}: {detail}") from task.error
        manifest: Manifest = task.value
        if manifest.key != node.key:  # a look that changed nothing
            self.tracker.end_stage(run_id, "FINISHED")
            return
        self.complete[node.name] = manifest
        self._untracked.append((node, manifest))
        self.display.done(node.name, manifest.num_bytes_made)
        try:
            self._check(node)
        except UsageError:
            self._track_finished()  # the artifact is good; what is planned of it is not
            raise

    def _track_finished(self) -> None:
        """Logs finished stages to MLflow, once the next ones have started."""
        while self._untracked:
            node, manifest = self._untracked.pop(0)
            self.tracker.finish_stage(node, manifest, self._run_ids[node.name])
            self.on_tracked(node)

    def _check(self, node: Node) -> None:
        """Runs the node's own check of its artifact, made now or reused. Raises UsageError."""
        for line in node.check(self._artifacts(node)) if node.check is not None else ():
            self.display.handle(Log(source=node.name, line=line))


def _first_look(steps: Sequence[Step], seen: Container[str]) -> int | None:
    """Returns the place of the first step that is to be looked at again and was not yet; None where there is none."""
    return next((n for n, step in enumerate(steps) if step.num_to_look_at and step.node.name not in seen), None)


def _with_location(error: UsageError, where: str) -> UsageError:
    """Returns the same error with the stage at the start of its message."""
    message, *rest = error.args or ("",)
    return type(error)(f"{where}: {message}", *rest)
