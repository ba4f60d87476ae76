"""The faults that `percepts verify` looks for in a store. Reads everything, changes nothing."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from cluster.run_records import RUNS, parse_record
from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import TEMPORARY_MARK, FileState, join, list_states, read_bytes, sha256_file
from pipeline.engine.store import MANIFEST, STORE_FILE, TRAIN_SCRATCH, Manifest, Output, Store
from pipeline.upkeep.faults import MAKE_AGAIN, SET_ASIDE, Fault, Kind, broken_shard, foreign_file
from pipeline.upkeep.lineage import KEY
from stages.downloading.link_results import DOWNLOADED
from stages.percepts.integrity import ACCOUNT, IntactShard, ledger_faults, shard_faults
from stages.percepts.shards import (
    LEDGER_FILE,
    PERCEPTS,
    SHARDS_FILE,
    Shard,
    in_use,
    iter_references,
    parse_sidecar,
    sidecar,
)
from stages.percepts.takedowns import DIRECTORY, parse_takedown
from stages.video.ledger import read_tables
from stages.video.probe_cache import PROBE_CACHE
from stages.video.probe_cache import read_file as read_probe_cache_file
from stages.video.record_table import digests

NOT_CHECKED: Final = ("reports", "mlartifacts", TRAIN_SCRATCH, "unpacked", DOWNLOADED, "runs", "tracking", SET_ASIDE)
"""Directories of the store that hold no artifact: only their unfinished writes are looked for."""


@dataclass
class Inspection:
    """One look at a whole store.

    Threads hash, and call `advance` with the number of bytes that they have read. What is younger than `grace_s`
    seconds and not finished may belong to a run that is going on, and is passed over.
    """

    store: Store
    num_threads: int = 4
    grace_s: float = 3600.0
    advance: Callable[[int], object] = lambda num_bytes: None
    unused: list[str] = field(default_factory=list)
    """Paths of whole shards that no artifact uses."""
    unused_bytes: int = 0
    num_frames: dict[str, int] = field(default_factory=dict)
    """Frames of all shards in use, by account: expected, decoded, dropped, missing."""
    num_shards: int = 0
    num_videos: int = 0
    """Videos of all extractors together."""

    _damaged_keys: set[str] = field(default_factory=set)
    _faulty: dict[str, Manifest] = field(default_factory=dict)

    @cached_property
    def states(self) -> dict[str, FileState]:
        """Every file of the store, from one listing."""
        return list_states(self.store.root)

    @cached_property
    def hashed_bytes(self) -> int:
        """Number of bytes that will be read."""
        return sum(
            state.num_bytes
            for name, state in self.states.items()
            if name.startswith(f"{PERCEPTS}/") or KEY.fullmatch(name.split("/")[1] if "/" in name else "")
        )

    def faults(self) -> Iterator[Fault]:
        """Yields every fault, in a fixed order.

        Raises:
            StoreError: something was written by a newer version of percepts.
        """
        artifacts: dict[str, list[str]] = {}
        shard_files: dict[str, list[str]] = {}
        yield from self._sort_files(artifacts, shard_files)
        taken = {name.rpartition("/")[2].removesuffix(".json") for name in self._files_of(DIRECTORY)}
        again = "you: take the video of its name down again, which writes it anew"
        yield from self._unreadable(DIRECTORY, lambda uri: parse_takedown(read_bytes(uri), uri), again)
        again = "remove it; the next listing with its videos hashes them again"
        yield from self._unreadable(PROBE_CACHE, lambda uri: deque(read_probe_cache_file(uri), maxlen=0), again)
        no_result = "remove it; it is the record of one run, and no result"
        yield from self._unreadable(RUNS, lambda uri: parse_record(read_bytes(uri), uri), no_result)
        manifests: dict[str, Manifest] = {}
        for name, files in artifacts.items():
            yield from self._artifact(name, files, manifests)
        yield from self._made_of_damaged(manifests)
        yield from self._inputs(manifests)
        shards: dict[str, IntactShard] = {}
        broken: list[Fault] = []
        for folder, files in shard_files.items():
            yield from self._folder(folder, files, shards, broken, taken)
        yield from self._extractions(manifests, shards, broken, taken)

    def _sort_files(self, artifacts: dict[str, list[str]], shard_files: dict[str, list[str]]) -> Iterator[Fault]:
        """Sorts files by their names alone, and yields those that belong nowhere."""
        for name in self.states:
            parts = name.split("/")
            if TEMPORARY_MARK in name:
                if self._is_old(name):
                    what = "an unfinished write of a process that was killed"
                    yield Fault(kind="temporary", path=name, what=what, repair="remove it", removes=(name,))
            elif parts[0] in (*NOT_CHECKED, DIRECTORY, PROBE_CACHE, RUNS, STORE_FILE) or name.startswith("mlflow.db"):
                continue
            elif parts[0] == PERCEPTS and len(parts) == 3 and name.endswith((".json", ".parquet")):
                shard_files.setdefault("/".join(parts[:2]), []).append(name)
            elif len(parts) >= 3 and parts[0] != PERCEPTS and KEY.fullmatch(parts[1]):
                artifacts.setdefault("/".join(parts[:2]), []).append(name)
            else:
                yield foreign_file(name)

    def _is_old(self, *names: str) -> bool:
        return time.time() - max(self.states[name].modified_s for name in names) >= self.grace_s

    def _unreadable(self, directory: str, parse: Callable[[str], object], repair: str) -> Iterator[Fault]:
        """Yields the files of a directory that cannot be parsed; they are removed, unless that is for the user."""
        for name in self._files_of(directory):
            try:
                parse(join(self.store.root, name))
            except CorruptArtifact as error:
                removes = () if repair.startswith("you:") else (name,)
                yield Fault(kind="damaged", path=name, what=str(error), repair=repair, removes=removes)

    def _files_of(self, directory: str) -> list[str]:
        return [name for name in self.states if name.startswith(f"{directory}/") and TEMPORARY_MARK not in name]

    def _hash(self, expected: dict[str, Output]) -> Iterator[tuple[str, Kind, str]]:
        """Hashes files and yields (path, kind, what) of every one that is not as expected."""
        present = []
        for name, output in expected.items():
            state = self.states.get(name)
            if state is None:
                yield name, "missing", f"{name} is not there"
            elif state.num_bytes != output.num_bytes:
                how = "truncated" if state.num_bytes < output.num_bytes else "longer than it was"
                yield name, "damaged", f"{how}: {state.num_bytes:,} bytes, {output.num_bytes:,} were written"
            else:
                present.append(name)
        with ThreadPoolExecutor(self.num_threads) as threads:
            digests = threads.map(lambda name: sha256_file(join(self.store.root, name), self.advance), present)
            for name, digest in zip(present, digests, strict=True):
                if digest != expected[name].sha256:
                    yield (
                        name,
                        "damaged",
                        f"its sha256 is {digest[:12]}..., {expected[name].sha256[:12]}... was written",
                    )

    def _artifact(self, name: str, files: list[str], manifests: dict[str, Manifest]) -> Iterator[Fault]:
        manifest_name = f"{name}/{MANIFEST}"
        if manifest_name not in files:
            if self._is_old(*files):
                yield Fault(
                    kind="unfinished",
                    path=name,
                    what="no manifest: its run was stopped, or goes on",
                    repair="you: run its recipe again, which goes on where it was; or --remove-unfinished",
                )
            return
        try:
            manifest = Manifest.from_json(json.loads(read_bytes(join(self.store.root, manifest_name))))
            if f"{manifest.stage}/{manifest.key}" != name:
                raise ValueError(f"it is that of {manifest.stage}/{manifest.key}")
        except (ValueError, KeyError, TypeError) as error:
            # An extraction's plan is kept where it can be: with it the next run writes the same shards again.
            removes = (manifest_name,) if f"{name}/{SHARDS_FILE}" in files else (manifest_name, name)
            what = f"its manifest is damaged ({error})"
            yield Fault(kind="damaged", path=manifest_name, what=what, repair=MAKE_AGAIN, removes=removes)
            return
        manifests[name] = manifest
        expected = {f"{name}/{file}": output for file, output in manifest.outputs.items()}
        for path in files:
            if path not in expected and path != manifest_name:
                yield foreign_file(path)
        faults = list(self._hash(expected))
        for path, kind, what in faults:
            yield Fault(kind=kind, path=path, what=what, repair=MAKE_AGAIN, removes=_files(name, manifest, path))
            if kind == "damaged":
                self._damaged_keys.add(manifest.key)
        if faults:
            self._faulty[name] = manifests.pop(name)

    def _made_of_damaged(self, manifests: dict[str, Manifest]) -> Iterator[Fault]:
        """Yields the whole artifacts that were made of a damaged one, directly or through others.

        Of which bytes they were made is not known.
        """
        tainted = dict.fromkeys(self._damaged_keys, "")
        everything = {**manifests, **self._faulty}
        while new := {
            manifest.key: next(key for key in manifest.input_keys() if key in tainted)
            for manifest in everything.values()
            if manifest.key not in tainted and tainted.keys() & set(manifest.input_keys())
        }:
            tainted |= new
        for name in [name for name, manifest in manifests.items() if tainted.get(manifest.key)]:
            manifest = manifests.pop(name)
            what = f"it was made of {tainted[manifest.key]}, which is damaged or was made of what is"
            removes = _files(name, manifest)
            yield Fault(kind="made of damaged", path=name, what=what, repair=MAKE_AGAIN, removes=removes)

    def _inputs(self, manifests: dict[str, Manifest]) -> Iterator[Fault]:
        keys = {manifest.key for manifest in manifests.values()}
        here = {name.split("/")[1] for name in self.states if name.count("/") >= 2}
        for name, manifest in manifests.items():
            missing = [key for key in manifest.input_keys() if key not in keys and key not in here]
            if missing:
                what = f"it was made of {', '.join(missing)}, no longer in the store"
                repair = "you: run its recipe again, which makes its inputs anew; or remove it"
                yield Fault(kind="input gone", path=name, what=what, repair=repair)

    def _folder(
        self, folder: str, files: list[str], shards: dict[str, IntactShard], broken: list[Fault], taken: set[str]
    ) -> Iterator[Fault]:
        """Checks the shards of one extractor. Adds whole ones to `shards`, faults of others to `broken`."""
        replaces: dict[str, tuple[str, ...]] = {}
        expected: dict[str, Output] = {}
        for name in [name for name in files if name.endswith(".json")]:
            path = name.removesuffix(".json") + ".parquet"
            try:
                shard = self._sidecar(path)
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                broken.append(broken_shard(path, "damaged", f"its sidecar is not one of this shard ({error})"))
            else:
                replaces[path] = shard.replaces
                expected[path] = Output(sha256=shard.sha256, num_bytes=shard.bytes)
        current = in_use(replaces)
        replaced = {old for path in current for old in replaces[path]}
        for path in [name for name in files if name.endswith(".parquet") and sidecar(name) not in files]:
            if path in replaced or self._is_old(path):
                kind: Kind = "replaced" if path in replaced else "unrecorded"
                what = "a shard without its sidecar: the process that wrote it was killed"
                yield Fault(kind=kind, path=path, what=what, repair="remove it", removes=(path,))
        faults = {path: (kind, what) for path, kind, what in self._hash({path: expected[path] for path in current})}
        for path in current:
            if path in faults:
                broken.append(broken_shard(path, *faults[path]))
                continue
            shard = self._sidecar(path)
            wrong = "; ".join(shard_faults(self.store.root, shard))
            if wrong:
                broken.append(broken_shard(path, "account", wrong))
                continue
            shards[path] = IntactShard.of(shard)
            for video in sorted(taken & shard.results.keys()):
                what = f"it still holds {shard.results[video].frames_decoded:,} rows of video {video}, taken down"
                yield Fault(
                    kind="taken down", path=path, what=what, repair="rewrite it without the video", takes_down=video
                )
        by = {old: path for path in current if path in shards for old in replaces[path]}
        for path in [path for path in replaces if path in by]:
            what = f"{by[path]} has taken its place"
            yield Fault(kind="replaced", path=path, what=what, repair="remove it", removes=(sidecar(path), path))

    def _sidecar(self, path: str) -> Shard:
        """Reads a sidecar. Raises as `parse_sidecar`, or AssertionError if it is that of another shard."""
        shard = parse_sidecar(read_bytes(join(self.store.root, sidecar(path))))
        assert shard.path == path, f"it is that of {shard.path}"
        return shard

    def _extractions(
        self, manifests: dict[str, Manifest], shards: dict[str, IntactShard], broken: list[Fault], taken: set[str]
    ) -> Iterator[Fault]:
        """Checks artifacts against the shards that they use; yields broken shards with the artifacts that need them."""
        by_path = {old: path for path, shard in shards.items() for old in shard.replaces}
        by_path |= {path: path for path in shards}
        used: set[str] = set()
        users: dict[str, list[str]] = {}
        for name, manifest in manifests.items():
            if SHARDS_FILE not in manifest.outputs:
                continue
            # Paths and digests are kept in memory, and no names.
            uses = [(use.path, digests(use.videos)) for use in iter_references(join(self.store.root, name))]
            lost = [path for path, _ in uses if path not in by_path]
            for path in lost:
                users.setdefault(path, []).append(name)
            if not lost:
                paths = sorted({by_path[path] for path, _ in uses})
                used.update(paths)
                ledger = read_tables(join(self.store.root, name, LEDGER_FILE))
                here, videos = [shards[path] for path in paths], [video_digests for _, video_digests in uses]
                faults = list(ledger_faults(ledger, manifest.facts, videos, here, taken))
                if faults:
                    files = (f"{name}/{file}" for file in (MANIFEST, LEDGER_FILE, SHARDS_FILE))
                    yield Fault(
                        kind="account", path=name, what="; ".join(faults), repair=MAKE_AGAIN, removes=tuple(files)
                    )
        for path in sorted(users):
            if path not in {fault.path for fault in broken}:
                broken.append(broken_shard(path, "missing", "the shard is gone, and nothing replaces it"))
        for fault in broken:
            names = users.get(fault.path, [])
            for_it = f" and {len(names)} artifacts that use it" if names else ""
            manifests_too = tuple(f"{name}/{MANIFEST}" for name in names)
            yield replace(
                fault,
                repair=f"remove it{for_it}; the next run of the recipe makes them again",
                removes=(*manifests_too, *fault.removes),
            )
        self._count(shards, used)

    def _count(self, shards: dict[str, IntactShard], used: set[str]) -> None:
        self.unused = sorted(shards.keys() - used)
        self.unused_bytes = sum(shards[path].num_bytes for path in self.unused)
        self.num_shards = len(shards)
        self.num_videos = sum(len(shard.sha256_U) for shard in shards.values())
        self.num_frames = {name: sum(shard.num_frames[name] for shard in shards.values()) for name in ACCOUNT}


def _files(name: str, manifest: Manifest, path: str | None = None) -> tuple[str, ...]:
    """Returns what to remove of an artifact, the manifest first, and no file that it does not know.

    Of an extraction only a damaged file (`path`) goes: with the rest of its plan the next run writes the same shards.
    """
    manifest_name = f"{name}/{MANIFEST}"
    if SHARDS_FILE in manifest.outputs:
        return (
            (manifest_name, path)
            if path is not None
            else (manifest_name, *(f"{name}/{f}" for f in (LEDGER_FILE, SHARDS_FILE)))
        )
    return (manifest_name, *(f"{name}/{file}" for file in manifest.outputs))
