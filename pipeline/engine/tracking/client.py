"""MLflow's client for one run of a recipe: what MLflow does not take is kept in the store, and the run goes on.

A thread of its own writes, one call after the other, so that a run waits for MLflow at its end alone. From the first
call that fails on, every call goes into the run's box (`pipeline.core.outbox`). The end of the run, the next run of the
store and `percepts track --resend` send it.
"""

from __future__ import annotations

import importlib
import threading
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any, Final

import mlflow
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.tracking import MlflowClient

from pipeline.core.addresses.model_uris import in_one_line
from pipeline.core.errors import UsageError
from pipeline.core.files import join, local_copy
from pipeline.core.outbox import (
    Call,
    Outbox,
    OutboxHead,
    answered,
    iter_calls,
    only_sender,
    remember_answer,
    save_progress,
    unsent,
)
from pipeline.core.secrets import masked, public
from pipeline.core.stage import Artifact, Resources
from pipeline.engine.plan import ExistingArtifactConfig, Node
from pipeline.engine.store import Store
from pipeline.engine.tracking.addresses import is_own, open_mlflow
from pipeline.engine.tracking.models import log_model
from pipeline.engine.tracking.registry import register
from pipeline.engine.tracking.runs import SENT_TAG, find_run
from pipeline.engine.tracking.values import HolderResults, Registration

ENTITIES: Final = {
    kind.__name__: kind for kind in (Metric, Param, RunTag, InputTag, Dataset, DatasetInput, LoggedModelOutput)
}


class TrackingClient:
    """The calls of one run to MLflow. None of them raises what MLflow or its databases and servers raise."""

    def __init__(self, store: Store, uri: str, experiment: str) -> None:
        """Opens the experiment, and sends what earlier runs have left.

        Raises:
            UsageError: no MLflow answers at `uri`, and none ever did to this store.
        """
        self.uri, self.experiment_id = uri, ""
        self._store = store
        self._address = "" if is_own(store, uri) else public(uri)
        self._box = Outbox(store.root, self._address, experiment)
        self._client: MlflowClient | None = None
        self._note = ""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
        self._state = threading.Lock()
        """Held by whoever finds that MLflow is away, or adds to the box."""
        self._fault: BaseException | None = None
        """The first exception in the writing thread that is no failure of MLflow or the store, but our own mistake."""
        try:
            self._client, self.experiment_id = open_mlflow(store, uri, experiment)
        except Exception as error:  # by place: MLflow, SQLAlchemy and drivers raise exceptions of their own
            self._reason = in_one_line(error)
            if self._address and self._address not in answered(store.root) and "is locked" not in self._reason:
                raise UsageError(f"no MLflow answers at --tracking-uri {self._address!r}: {self._reason}") from error
            return
        self._reason = ""
        if self._address:
            remember_answer(store.root, self._address)
        waiting = {
            u: box
            for u, box in unsent(store.root).items()
            if box.address == self._address and not (box.lives or box.is_elsewhere)
        }
        if waiting:
            self._note = resend(store, {u: (box, uri) for u, box in waiting.items()})

    @property
    def is_open(self) -> bool:
        """True as long as MLflow takes every call."""
        return self._client is not None

    def create_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Creates a run at once and returns its id: MLflow's, or one of its own until MLflow takes it."""
        start_ms, tags = int(time.time() * 1000), {key: masked(value) for key, value in tags.items()}
        if (client := self._client) is not None:
            try:
                run = client.create_run(self.experiment_id, start_ms, tags, name)
                return str(run.info.run_id)
            except Exception as error:  # noqa: BLE001  # by place, as in `_call`
                self._lose(error)
        run_id = uuid.uuid4().hex
        self._keep(Call("create_run", run_id, {"run_name": name, "tags": tags, "start_time": start_ms}))
        return run_id

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
    ) -> None:
        """Logs points, parameters and tags."""
        values = {"metrics": _plain(metrics), "params": _plain(params), "tags": _plain(tags)}
        self._call(Call("log_batch", run_id, {name: value for name, value in values.items() if value}))

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        """Sets a tag of a run."""
        self._call(Call("set_tag", run_id, {"key": key, "value": masked(value)}))

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        """Logs data sets that a run read."""
        self._call(Call("log_inputs", run_id, {"datasets": _plain(datasets)}))

    def log_outputs(self, run_id: str, models: Sequence[LoggedModelOutput]) -> None:
        """Logs models that a run made."""
        self._call(Call("log_outputs", run_id, {"models": _plain(models)}))

    def log_table(self, run_id: str, data: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Logs a table of results."""
        columns = {name: list(column) for name, column in data.items()}
        self._call(Call("log_table", run_id, {"data": columns, "artifact_file": artifact_file}))

    def log_file(self, run_id: str, uri: str) -> None:
        """Attaches a file of the store to a run."""
        self._call(Call("log_file", run_id, {"name": uri.removeprefix(f"{self._store.root}/")}))

    def log_model(self, run_id: str, node: Node, artifact: Artifact) -> None:
        """Logs the artifact of a node as a model of a run."""
        stage = [node.stage.function.__module__, node.stage.name]
        self._call(Call("log_model", run_id, {"stage": stage, "name": node.name, "key": artifact.key}))

    def register(self, registration: Registration) -> str:
        """Registers a model; returns what became of it. Raises as `pipeline.engine.tracking.registry.register`."""
        self.wait()
        if (client := self._client) is not None:
            try:
                return register(client, registration)
            except Exception as error:
                if isinstance(error, UsageError) and answers(client, self.experiment_id):
                    raise
                self._lose(error)
        manifest = registration.manifest
        values: dict[str, Any] = {"stage": manifest.stage, "key": manifest.key}
        values |= {name: value for name, value in vars(registration).items() if name not in ("manifest", "holder")}
        if registration.holder is not None:
            values["holder"] = asdict(registration.holder)
        self._call(Call("register", "", values))
        return f"{registration.target}, once MLflow answers again"

    def set_terminated(self, run_id: str, status: str) -> None:
        """Ends a run."""
        self._call(Call("set_terminated", run_id, {"status": status, "end_time": int(time.time() * 1000)}))

    def find_run(self, run_id: str | None) -> Run | None:
        """Returns a run by its id, or by the one that it had until MLflow took it; None where there is none."""
        client = self._client
        if client is None or run_id is None:
            return None
        try:
            return find_run(client, run_id)
        except Exception as error:  # noqa: BLE001  # by place, as in `_call`
            self._lose(error)
            return None

    def open_runs(self) -> list[Run]:
        """Returns the experiment's runs that have not ended."""
        if self._client is None:
            return []
        try:
            return list(self._client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'"))
        except Exception as error:  # noqa: BLE001  # by place, as in `_call`
            self._lose(error)
            return []

    def wait(self) -> None:
        """Waits until every call so far was taken, or is in the box. Raises what went wrong in writing besides."""
        self._writer.submit(int).result()
        if self._fault is not None:
            raise self._fault

    def close(self) -> str:
        """Ends the writing thread and sends what is in the box, if MLflow answers again; no call may follow.

        Returns a line on what MLflow lacks, empty if nothing.
        """
        self._writer.shutdown()
        if self._fault is not None:
            raise self._fault
        self._box.close()
        if not self._box.box.num_calls:
            return self._note
        if self._box.problem:
            lost = f"what MLflow lacks of this run is lost: {masked(self._reason)}, and the store cannot be written"
            return f"{lost} ({masked(self._box.problem)})"
        return resend(self._store, {self._box.uri: (self._box.box, self.uri)})

    def _call(self, call: Call) -> None:
        self._writer.submit(self._write, call).add_done_callback(self._keep_fault)

    def _keep_fault(self, written: Future[None]) -> None:
        self._fault = self._fault or written.exception()

    def _write(self, call: Call) -> None:
        if (client := self._client) is not None:
            try:
                perform(client, self._store, call)
                return
            except Exception as error:  # noqa: BLE001  # by place: its servers, databases and buckets raise their own
                self._lose(error)
        self._keep(call)

    def _keep(self, call: Call) -> None:
        with self._state:
            self._box.add(call, self._reason)

    def _lose(self, error: Exception) -> None:
        with self._state:
            self._client, self._reason = None, in_one_line(error)


def answers(client: MlflowClient, experiment_id: str) -> bool:
    """Returns whether MLflow takes a simple call."""
    try:
        client.get_experiment(experiment_id)
    except Exception:  # noqa: BLE001  # by place: what it raises is what is asked for
        return False
    return True


def resend(store: Store, boxes: Mapping[str, tuple[OutboxHead, str]]) -> str:
    """Sends boxes, each to its MLflow; returns a line on what is missing then, empty where nothing is.

    boxes: URI -> head, address with its secrets.
    """
    lines: list[str] = []
    if not boxes:
        return ""
    with only_sender(store.root):
        here = unsent(store.root)
        for uri, (_, address) in boxes.items():
            if uri in here:
                box = _send(store, uri, here[uri], address)
                if box.num_missing:
                    shown = public(address)
                    lines.append(
                        f"MLflow at {shown} lacks {box.num_missing} of {box.num_calls} entries ({box.reason}): they "
                        f"are kept in {public(uri)}; the next run of this store sends them, or "
                        f"`percepts track --resend --store {public(store.root)}`"
                    )
    return "\n".join(lines)


def _send(store: Store, uri: str, box: OutboxHead, address: str) -> OutboxHead:
    try:
        client, experiment_id = open_mlflow(store, address, box.experiment)
    except Exception as error:  # noqa: BLE001  # by place: MLflow, SQLAlchemy and drivers raise their own
        box = replace(box, reason=in_one_line(error))
        save_progress(uri, box)
        return box
    refused, reason, ids = list(box.refused), "", dict[str, str]()
    num_sent, is_cut_off = box.num_sent, False
    for number, call in enumerate(iter_calls(uri)):
        is_due = number >= box.num_sent or number in refused
        if call.name != "create_run" and not is_due:
            continue
        try:
            _deliver(client, experiment_id, store, call, ids)
            if number in refused:
                refused.remove(number)
        except Exception as error:  # noqa: BLE001  # by place, as above
            reason = in_one_line(error)
            is_cut_off = not answers(client, experiment_id)
            if is_cut_off:
                break
            if number not in refused:
                refused.append(number)
        num_sent = max(num_sent, number + 1)
    num_sent = num_sent if is_cut_off else box.num_calls
    box = replace(box, num_sent=num_sent, refused=tuple(refused), reason=reason)
    save_progress(uri, box)
    return box


def _deliver(client: MlflowClient, experiment_id: str, store: Store, call: Call, ids: dict[str, str]) -> None:
    """Performs a call with MLflow's ids in place of those that runs had until now."""
    if call.name != "create_run":
        values = {name: ids.get(value, value) if name == "run_id" else value for name, value in call.values.items()}
        perform(client, store, Call(call.name, ids.get(call.run_id, call.run_id), values))
        return
    run = find_run(client, call.run_id)
    if run is None:
        tags = {name: ids.get(value, value) for name, value in call.values["tags"].items()}
        tags[SENT_TAG] = call.run_id
        run = client.create_run(experiment_id, call.values["start_time"], tags, call.values["run_name"])
    ids[call.run_id] = str(run.info.run_id)


def perform(client: MlflowClient, store: Store, call: Call) -> None:
    """Performs a call. Raises whatever MLflow raises; FileNotFoundError where the store has the artifact no more."""
    values = call.values
    if call.name == "log_file":
        with local_copy(join(store.root, values["name"])) as path:
            client.log_artifact(call.run_id, str(path))
    elif call.name == "log_model":
        stage = getattr(importlib.import_module(values["stage"][0]), values["stage"][1])
        node = Node(values["name"], stage, ExistingArtifactConfig(), {}, Resources(), values["key"])
        artifact = stage.produces(store.directory(stage.name, node.key), node.key)
        try:
            log_model(call.run_id, node, artifact)
        finally:
            while mlflow.active_run() is not None:  # a run that could not be ended stays this process's own
                mlflow.end_run()
    elif call.name == "register":
        manifest = store.find(values["stage"], values["key"])
        if manifest is None:
            raise FileNotFoundError(f"{values['key']} is no longer in the store")
        rest = {name: value for name, value in values.items() if name not in ("stage", "key", "holder")}
        holder = HolderResults(**values["holder"]) if values.get("holder") else None
        register(client, Registration(manifest=manifest, holder=holder, **rest))
    else:
        with warnings.catch_warnings():
            # MLflow 3.17 selects columns of strings as pandas 2 did.
            warnings.filterwarnings("ignore", message="For backward compatibility, 'str' dtypes")
            getattr(client, call.name)(call.run_id, **{name: _entities(value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    """Returns entities of MLflow as JSON values, with every text masked."""
    if type(value).__name__ in ENTITIES:
        return {"entity": type(value).__name__, **{name: _plain(part) for name, part in dict(value).items()}}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return masked(value) if isinstance(value, str) else value


def _entities(value: Any) -> Any:
    """Returns what `_plain` was given."""
    if isinstance(value, dict) and "entity" in value:
        kind = ENTITIES[value["entity"]]
        return kind(**{name: _entities(part) for name, part in value.items() if name != "entity"})
    return [_entities(part) for part in value] if isinstance(value, list) else value
