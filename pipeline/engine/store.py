"""The store: finished artifacts on any fsspec file system, `<root>/<stage>/<key>/`, the manifest written last.

An artifact is complete if and only if its `manifest.json` exists. Nothing else (file names, times) is trusted.
`<root>/store.json` names the format; a store of a newer format is refused, never guessed at.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pipeline.core.addresses.mlflow_addresses import DATABASE, sqlite_uri
from pipeline.core.errors import CorruptArtifact, SourceError, StoreError
from pipeline.core.files import (
    TEMPORARY_MARK,
    absolute,
    filesystem,
    is_local,
    join,
    list_directories,
    list_files,
    list_states,
    read_json,
    remove,
    sha256_bytes,
    sha256_file,
    size_bytes,
    write_bytes,
    write_json,
)
from pipeline.core.stage import Holding

FORMAT = 1
MANIFEST = "manifest.json"
STORE_FILE = "store.json"
TRAIN_SCRATCH: Final = "ray-train"
"""A directory below the store for Ray Train's own small state of groups in flight."""
DEFAULT_STORE = ".percepts"
"""The `--store` of every command that is given none."""
NOT_FOREIGN: Final = ("mlflow.db", "lost+found", ".snapshot", ".DS_Store")
"""Beginnings of names that an empty directory may hold: MLflow's file, and what volumes hold from their start."""


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
    """The time that making it took, without waiting for workers."""
    expected_s: float | None = None
    """The stage's own estimate of that, by the sizes that its inputs had."""
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

    @property
    def num_bytes_made(self) -> int:
        """Bytes that the stage made: the artifact's own files, and the percepts that it put beside those of others."""
        extracted, each = self.facts.get("num_frames_extracted", 0), self.facts.get("bytes_per_frame", 0.0)
        return self.num_bytes + round(float(extracted) * float(each))

    def input_keys(self) -> list[str]:
        """Returns the keys of all artifacts from which this one was made."""
        keys: list[str] = []
        for value in self.inputs.values():
            keys.extend(value if isinstance(value, list) else [] if value is None else [value])
        return keys

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest as JSON values, with a digest of all of them under "digest"."""
        value = asdict(self)
        return {**value, "digest": _digest(value)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Manifest:
        """Parses what `to_json` made; manifests of before 2026-11-26 have no digest.

        Raises:
            ValueError, KeyError, TypeError: it is no manifest, or not the one that was written.
        """
        value = dict(value)
        digest = value.pop("digest", None)
        if digest is not None and digest != _digest(value):
            raise ValueError("its digest is that of another text")
        outputs = {name: Output(**output) for name, output in value["outputs"].items()}
        return cls(**{**value, "outputs": outputs})


def _digest(value: dict[str, Any]) -> str:
    return sha256_bytes(json.dumps(value, sort_keys=True).encode())


@dataclass(frozen=True)
class Store:
    """A root directory on any fsspec file system."""

    root: str

    @classmethod
    def open(cls, uri: str, *, create: bool = False) -> Store:
        """Opens the store at `uri`; with `create`, makes one if there is none.

        Raises:
            StoreError: the store cannot be read or written, does not exist, has a newer format, or is a directory of
                other files.
        """
        _check_named(uri)
        try:
            root = absolute(uri)
            marker = join(root, STORE_FILE)
            description: Any = read_json(marker)
        except FileNotFoundError:
            description = None
        except NotADirectoryError as error:
            raise StoreError(f"store {uri!r} is a file, not a directory; give --store a directory") from error
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{marker!r} is not JSON: {MEND_STORE_FILE}") from error
        except SourceError as error:
            raise StoreError(str(error)) from error
        except OSError as error:
            raise StoreError(
                f"store {uri!r} cannot be read: {_cause(error)}; check the address and its rights"
            ) from error
        if description is None:
            if not create:
                raise StoreError(f"there is no percepts store at {uri!r}; run a recipe with --store {uri} to begin one")
            check_new(uri)
            _begin(uri, marker)
        elif not _is_format(description):
            raise StoreError(f"{marker!r} does not name a format: {MEND_STORE_FILE}")
        elif description["format"] > FORMAT:
            raise StoreError(
                f"store {uri!r} has format {description['format']}, this percepts writes {FORMAT}: "
                "it was made by a newer version; upgrade percepts or name another --store"
            )
        return cls(root)

    def check_writable(self) -> None:
        """Checks that a file can be written below the root, and removed. Raises StoreError."""
        uri = join(self.root, f"writable{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}")
        try:
            write_bytes(uri, b"")
            remove(uri)
        except Exception as error:  # fsspec's back ends raise the exceptions of their client libraries
            raise _not_writable(self.root, error) from error

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
            raise CorruptArtifact(f"{uri} is not a manifest ({error}); {self.how_to_mend}") from error

    @property
    def how_to_mend(self) -> str:
        """The end of a message about a damaged file of the store."""
        return f"run `percepts verify --repair --store {self.root}` and this command again"

    def check_sizes(self, manifest: Manifest) -> None:
        """Compares the sizes of an artifact's files with its manifest; reads none. Raises CorruptArtifact."""
        directory = self.directory(manifest.stage, manifest.key)
        states = list_states(directory) if manifest.outputs else {}
        for name, output in manifest.outputs.items():
            state = states.get(name)
            if state is None and manifest.holds != "files":  # a video's file may be deleted, as a takedown says
                raise CorruptArtifact(f"{join(directory, name)} is missing; {self.how_to_mend}")
            if state is not None and state.num_bytes != output.num_bytes:
                raise CorruptArtifact(
                    f"{join(directory, name)} has {state.num_bytes} bytes, its manifest says {output.num_bytes}; "
                    f"{self.how_to_mend}"
                )

    def check(self, manifest: Manifest) -> None:
        """Hashes every file of an artifact against its manifest. Raises CorruptArtifact."""
        self.check_sizes(manifest)
        directory = self.directory(manifest.stage, manifest.key)
        for name, output in manifest.outputs.items():
            uri = join(directory, name)
            try:
                digest = sha256_file(uri)
            except FileNotFoundError:
                continue  # `check_sizes` says which may be missing
            if digest != output.sha256:
                raise self.damaged(manifest, name)

    def damaged(self, manifest: Manifest, name: str) -> CorruptArtifact:
        """Returns the error for a file whose content is not that of the artifact's manifest."""
        uri = join(self.directory(manifest.stage, manifest.key), name)
        return CorruptArtifact(f"{uri} is damaged: its sha256 is not that of its manifest; {self.how_to_mend}")

    def commit(self, manifest: Manifest) -> None:
        """Writes the manifest: from now on the artifact is complete."""
        write_json(join(self.directory(manifest.stage, manifest.key), MANIFEST), manifest.to_json())

    def remove(self, stage: str, key: str) -> None:
        """Removes an artifact, first the manifest: half of one must not look whole."""
        remove(join(self.directory(stage, key), MANIFEST))
        remove(self.directory(stage, key))
        remove(join(self.root, TRAIN_SCRATCH, key))

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
        return sqlite_uri(join(self.root, DATABASE))


MEND_STORE_FILE: Final = (
    f'no percepts store, or a damaged one; if it is one, write {{"format": {FORMAT}}} into this file'
)


def _is_format(description: Any) -> bool:
    number = description.get("format") if isinstance(description, dict) else None
    return type(number) is int and number >= 1


def _check_named(uri: str) -> None:
    if not uri.strip():
        raise StoreError("the store's address is empty (an unset variable?); give --store a directory or a URL")


def check_new(uri: str) -> None:
    """Raises StoreError where a new store would lie among other files, cannot be read, or has no address."""
    _check_named(uri)
    try:
        fs, path = filesystem(uri)
        names = [str(name).rstrip("/").rpartition("/")[2] for name in fs.ls(path, detail=False)]
    except FileNotFoundError:
        return
    except SourceError as error:
        raise StoreError(str(error)) from error
    except Exception as error:  # fsspec's back ends raise the exceptions of their client libraries
        raise StoreError(f"store {uri!r} cannot be read: {_cause(error)}; check the address and its rights") from error
    others = sorted(n for n in names if n and not n.startswith(NOT_FOREIGN) and TEMPORARY_MARK not in n)
    if others:
        raise StoreError(
            f"{uri!r} holds other files ({others[0]!r}) and is no percepts store: give --store a new or empty "
            f'directory; if it is a store that lost its {STORE_FILE}, write {{"format": {FORMAT}}} into that file'
        )


def _begin(uri: str, marker: str) -> None:
    try:
        write_json(marker, {"format": FORMAT})
    except Exception as error:  # fsspec's back ends raise the exceptions of their client libraries
        raise _not_writable(uri, error) from error


def _not_writable(uri: str, error: BaseException) -> StoreError:
    return StoreError(f"store {uri!r} cannot be written: {_cause(error)}; choose another --store or fix its rights")


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
