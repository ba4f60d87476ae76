"""The store: finished artifacts on any fsspec file system, `<root>/<stage>/<key>/`, the manifest written last.

An artifact is complete if and only if its `manifest.json` exists. Nothing else (file names, times) is trusted.
`<root>/store.json` names the format; a store of a newer format is refused, never guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.core.errors import CorruptArtifact, SourceError, StoreError
from pipeline.core.files import (
    absolute,
    is_local,
    join,
    list_directories,
    list_files,
    read_json,
    sha256_file,
    size_bytes,
    write_json,
)
from pipeline.core.stage import Holding

FORMAT = 1
MANIFEST = "manifest.json"
STORE_FILE = "store.json"
DEFAULT_STORE = ".percepts"
"""The `--store` of every command that is given none."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """A file of an artifact."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The identity of a finished artifact and its provenance, which is no part of the identity."""

    stage: str
    version: int
    key: str
    name: str
    recipe: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    snapshot: str | None = None
    holds: Holding | None = None
    """Content that stems from videos, by the artifact's class; None in manifests of version 0.1."""
    outputs: dict[str, Output] = field(default_factory=dict)
    facts: dict[str, int | float | str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    finished_at: str = ""
    mlflow_run_id: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Bytes of the artifact's own files."""
        return sum(output.num_bytes for output in self.outputs.values())

    def input_keys(self) -> list[str]:
        """Returns the keys of all artifacts from which this one was made."""
        keys: list[str] = []
        for value in self.inputs.values():
            keys.extend(value if isinstance(value, list) else [] if value is None else [value])
        return keys

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Manifest:
        outputs = {name: Output(**output) for name, output in value["outputs"].items()}
        return cls(**{**value, "outputs": outputs})


@dataclass(frozen=True)
class Store:
    """A root directory on any fsspec file system."""

    root: str

    @classmethod
    def open(cls, uri: str, *, create: bool = False) -> Store:
        """Opens the store at `uri`; with `create`, makes one if there is none.

        Raises:
            StoreError: the store cannot be read or written, does not exist, or has a newer format.
        """
        root = absolute(uri)
        marker = join(root, STORE_FILE)
        try:
            description: Any = read_json(marker)
        except FileNotFoundError:
            description = None
        except NotADirectoryError as error:
            raise StoreError(f"store {uri!r} is a file, not a directory; give --store a directory") from error
        except json.JSONDecodeError as error:
            raise StoreError(f"{marker!r} is not JSON: this is no percepts store, or a damaged one") from error
        except SourceError as error:
            raise StoreError(str(error)) from error
        except OSError as error:
            raise StoreError(
                f"store {uri!r} cannot be read: {_cause(error)}; check the address and its rights"
            ) from error
        if description is None:
            if not create:
                raise StoreError(f"there is no percepts store at {uri!r}; run a recipe with --store {uri} to begin one")
            _begin(uri, marker)
        elif not isinstance(description, dict) or not isinstance(description.get("format"), int):
            raise StoreError(f"{marker!r} does not name a format: this is no percepts store, or a damaged one")
        elif description["format"] > FORMAT:
            raise StoreError(
                f"store {uri!r} has format {description['format']}, this percepts writes {FORMAT}: "
                "it was made by a newer version; upgrade percepts or name another --store"
            )
        return cls(root)

    def check_writable(self) -> None:
        """Checks that files can be written below the root. Raises StoreError."""
        _begin(self.root, join(self.root, STORE_FILE))

    def directory(self, stage: str, key: str) -> str:
        """Returns the URI of the artifact's directory."""
        return join(self.root, stage, key)

    def find(self, stage: str, key: str) -> Manifest | None:
        """Returns the manifest of a complete artifact, or None.

        Raises:
            CorruptArtifact: the manifest cannot be read.
        """
        uri = join(self.directory(stage, key), MANIFEST)
        try:
            return Manifest.from_json(read_json(uri))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"{uri} is not a manifest ({error}); remove its directory to make it anew") from error

    def commit(self, manifest: Manifest) -> None:
        """Writes the manifest: from now on the artifact is complete."""
        write_json(join(self.directory(manifest.stage, manifest.key), MANIFEST), asdict(manifest))

    def outputs(self, stage: str, key: str) -> dict[str, Output]:
        """Returns the digest and size of every file of the artifact except its manifest."""
        directory = self.directory(stage, key)
        names = [name for name in list_files(directory) if name != MANIFEST]
        return {
            name: Output(sha256=sha256_file(join(directory, name)), num_bytes=size_bytes(join(directory, name)))
            for name in names
        }

    def manifests(self, stage: str | None = None) -> Iterator[Manifest]:
        """Yields the manifest of every complete artifact, or of one stage's, sorted by stage and key."""
        for stage_name in [stage] if stage else list_directories(self.root):
            for key in list_directories(join(self.root, stage_name)):
                manifest = self.find(stage_name, key)
                if manifest is not None:
                    yield manifest

    @property
    def default_tracking_uri(self) -> str:
        """SQLite inside the store.

        Raises:
            StoreError: the store is not on this machine's disk, where SQLite cannot live.
        """
        if not is_local(self.root):
            raise StoreError(f"store {self.root!r} is remote and cannot hold MLflow's SQLite file; pass --tracking-uri")
        return f"sqlite:///{join(self.root, 'mlflow.db')}"


def _begin(uri: str, marker: str) -> None:
    try:
        write_json(marker, {"format": FORMAT})
    except Exception as error:  # fsspec's back ends raise the exceptions of their client libraries
        raise StoreError(
            f"store {uri!r} cannot be written: {_cause(error)}; choose another --store or fix its rights"
        ) from error


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
