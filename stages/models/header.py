"""The header of a model's file, read without its weights and without PyTorch.

A safetensors file begins with the length of its header, 8 bytes, little-endian, and the header in JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from pipeline.core.addresses.hub import hub_address
from pipeline.core.addresses.model_uris import HOME_STORE, resolve
from pipeline.core.error_words import error_in_words
from pipeline.core.errors import CorruptArtifact, SourceError, StoreError
from pipeline.core.files import filesystem, join, reaching
from stages.models.config import MODEL_FILE

METADATA_KEY: Final = "percepts"
"""Name of the one entry of a file's metadata: the settings that build the model again."""
FORMAT_VERSION: Final = 1
MAX_HEADER_BYTES: Final = 100_000_000
"""The largest header that the safetensors format allows."""
ModelKind = Literal["encoder", "classifier"]
_KINDS: Final[dict[ModelKind, tuple[str, str]]] = {
    "encoder": ("Composite", "pretrain"),
    "classifier": ("TrainedClassifiers", "finetune"),
}
"""Kind -> the class in a header, and the stage that writes such files."""


def model_file(uri: str) -> str:
    """Returns the address of a model's file, given that or its directory; one on a hub (`hf://`) as an https URL.

    Raises:
        ConfigError: an address on the hub that is not of its form.
    """
    return hub_address(uri if uri.endswith(".safetensors") else join(uri, MODEL_FILE))


def find_model(source: str, kind: ModelKind, store: str = HOME_STORE) -> tuple[str, dict[str, Any]]:
    """Returns the address and the header of the file of a model that a command names; the weights are not read.

    source: path or fsspec URL of the file or of its directory, `hf://...`, `models:/...` or `runs:/...`.
    store: the store whose MLflow is used if MLFLOW_TRACKING_URI is not set.

    Raises:
        ConfigError: see `model_file`.
        SourceError: there is no such file, or it holds something else.
        CorruptArtifact, StoreError: see `read_header`.
        UsageError: MLflow has no such model.
    """
    uri = model_file(resolve(source, store))
    header = read_header(uri)
    check_kind(header, kind, uri)
    return uri, header


def check_kind(header: Mapping[str, Any], kind: ModelKind, uri: str) -> None:
    """Raises SourceError where the file at `uri` holds another kind of model than `kind`."""
    class_name, stage = _KINDS[kind]
    if (other_class := header.get("class")) != class_name:
        other = next((other for other, (name, _) in _KINDS.items() if name == other_class), other_class)
        raise SourceError(
            f"{uri} holds a model of kind {other}, not {kind}: give an artifact of {stage}, {stage}-<key>"
        )


def read_header(uri: str) -> dict[str, Any]:
    """Reads the settings beside the weights: class, config, transform and extractor.

    Raises:
        SourceError: there is no such file, it cannot be read, or another program wrote the weights in it.
        CorruptArtifact: it is no safetensors file.
        StoreError: a newer version of percepts wrote it.
    """
    fs, path = filesystem(uri)
    try:
        with reaching(uri, but=(SourceError, ValueError, AttributeError, TypeError)), fs.open(path, "rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
            if num_bytes > MAX_HEADER_BYTES:
                raise ValueError(f"a header of {num_bytes} bytes")
            metadata: dict[str, str] = json.loads(file.read(num_bytes)).get("__metadata__", {})
            if METADATA_KEY not in metadata:
                raise SourceError(f"{uri} holds weights of another program: give a model file of percepts")
            header: dict[str, Any] = json.loads(metadata[METADATA_KEY])
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise SourceError(f"there is no model file at {uri}: give a file, or a directory that holds one") from error
    except OSError as error:  # a name that is too long, no permission
        raise SourceError(f"cannot read the model file {uri}: {error_in_words(error)}") from error
    except (ValueError, AttributeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CorruptArtifact(f"{uri} is not a model file of percepts ({reason}): make it again") from error
    check_version(header, uri)
    return header


def check_version(header: Mapping[str, Any], uri: str) -> None:
    """Raises StoreError where a newer version of percepts wrote the file at `uri`."""
    if header["version"] > FORMAT_VERSION:
        raise StoreError(
            f"{uri} has model format {header['version']}; this percepts reads up to {FORMAT_VERSION}: upgrade percepts"
        )


def as_tuples(value: Any) -> Any:
    """Returns a value of a header with tuples for its lists, at every depth."""
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value
