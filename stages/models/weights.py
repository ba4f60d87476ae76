"""A model as one safetensors file: its weights, and in the header its class and config. Nothing is ever unpickled.

The header's metadata has a single entry, so that equal models give equal bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.core import files
from pipeline.core.errors import ConfigError, CorruptArtifact, SourceError
from stages.models.classifier import CLASSIFIERS, Classifier
from stages.models.composite import Composite
from stages.models.config import MODEL_FILE, ClassifierSpec, CompositeSpec
from stages.models.header import FORMAT_VERSION, METADATA_KEY, check_version

Model = Composite | Classifier

DIGEST_KEY: Final = "content_sha256"
MANIFEST: Final = "manifest.json"
"""Name of the manifest of an artifact, and of what is kept of it beside a model in MLflow."""
MEND: Final = "run `percepts verify --repair` on its store and the recipe again, or get the model from MLflow again"

_KINDS = {model_class.__name__: kind for kind, model_class in CLASSIFIERS.items()}
"""The class that a header names -> the kind of classifier that it is."""


def write_tensors(
    uri: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, is_checked: bool = False
) -> None:
    """Writes tensors, and a JSON-able header, as one safetensors file; atomically.

    is_checked: the header has a digest of everything, for files that no manifest promises.
    """
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = json.loads(json.dumps({"version": FORMAT_VERSION, **header}))  # as it is read
    if is_checked:
        header = {**header, DIGEST_KEY: _digest(whole, header)}
    metadata = {METADATA_KEY: json.dumps(header, sort_keys=True)}
    files.write_bytes(uri, safetensors.torch.save(whole, metadata=metadata))


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_promised(uri: str, path: Path) -> None:
    """Compares a file's digest with that of the manifest in its directory, if it has one. Raises CorruptArtifact."""
    directory, _, name = uri.rpartition("/")
    try:
        manifest = files.read_json(files.join(directory or ".", MANIFEST))
        if "outputs" not in manifest:
            return  # a file of that name in another's directory
        promised = manifest["outputs"][name]["sha256"]
    except (FileNotFoundError, NotADirectoryError):
        return  # a copy outside a store, of which nothing is promised
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{directory}/{MANIFEST} says nothing of {name}: {MEND}") from error
    if files.sha256_file(str(path)) != promised:
        raise CorruptArtifact(f"{uri} is damaged: its sha256 is not that of the manifest beside it; {MEND}")


def read_tensors(uri: str, *, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and header of a file that `write_tensors` made.

    Raises:
        SourceError: there is no such file.
        CorruptArtifact: it is no safetensors file, was not written here, or is not what the manifest beside it says.
        StoreError: a newer version of percepts wrote it.
    """
    if not files.exists(uri):
        raise SourceError(f"there is no model file at {uri}: give a file, or a directory that holds {MODEL_FILE}")
    try:
        with files.local_copy(uri) as path:
            _check_promised(uri, path)
            with safetensors.safe_open(str(path), framework="pt", device=device) as archive:
                header = json.loads((archive.metadata() or {})[METADATA_KEY])
                tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CorruptArtifact(f"{uri} is not a model file of percepts ({reason}): make it again") from error
    promised = header.pop(DIGEST_KEY, None)
    if promised is not None and promised != _digest(tensors, header):
        raise CorruptArtifact(f"{uri} is damaged: its content is not that of the digest in it; remove it")
    check_version(header, uri)
    return tensors, header


def build_model(tensors: Mapping[str, Tensor], class_name: str, config: Mapping[str, Any], uri: str) -> Model:
    """Builds the model that a file's header describes, float32, in evaluation mode. Raises CorruptArtifact."""
    try:
        with torch.device("meta"):  # no memory for weights that are to be assigned
            if class_name == Composite.__name__:
                model: Model = Composite(CompositeSpec(**config))
            else:
                kind = _KINDS[class_name]
                model = CLASSIFIERS[kind](ClassifierSpec.of_header(kind, config))
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except (KeyError, TypeError, RuntimeError, ConfigError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptArtifact(f"{uri}: the weights do not fit the config beside them ({reason})") from error
    return model.eval()
