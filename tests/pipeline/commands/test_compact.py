"""`percepts compact`: percepts are equal before and after, whatever happens meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.commands import compact, verify
from pipeline.core.errors import CorruptArtifact, StoreError, UsageError
from pipeline.core.files import list_files
from pipeline.core.workers import Workers
from pipeline.engine.store import Store
from pipeline.upkeep import compaction
from pipeline.upkeep.compaction import merge_groups
from stages.extract import extract
from stages.percepts import Windows, open_store
from stages.percepts.shards import Shard, VideoResult, locate, read_references
from tests.pipeline.killed import kill_at_every_step
from tests.pipeline.small_store import CONFIG, all_bytes, clips, made, root, run_recipe
from tests.stages.test_extract import context_of, decoded, index_of

__all__ = ["clips", "decoded", "made", "root"]

NUM_FRAMES = 10 + 12 + 14 + 16 + 18 + 20


def artifact(root: Path | str) -> str:
    manifest = next(Store.open(str(root)).manifests("extract"))
    return Store.open(str(root)).directory("extract", manifest.key)


def scan(root: Path | str) -> bytes:
    """Every percept with its frame and time, as the artifact shows them."""
    store = open_store(artifact(root))
    rows = [store.rows(video) for video in store.videos]
    columns = [np.concatenate(part) for part in zip(*((r.frame_N, r.pts_us_N, r.segment_N) for r in rows), strict=True)]
    assert store.num_rows == NUM_FRAMES
    return b"".join(column.tobytes() for column in [*columns, np.concatenate(list(store.pieces()))])


def merge(root: Path | str, *arguments: str) -> None:
    assert compact.main(["--store", str(root), *arguments]) == 0


def is_clean(root: Path | str) -> bool:
    return verify.main(["--store", str(root), "--grace-minutes", "0"]) == 0


def test_percepts_are_equal_before_and_after(root: Path, made: Path, clips: list[str], decoded: list[str]) -> None:
    before, files = scan(root), all_bytes(str(root))
    merge(root)
    (path,) = root.glob("percepts/*/*.parquet")
    assert scan(root) == before
    assert is_clean(root)
    artifacts = {name: digest for name, digest in files.items() if not name.startswith("percepts/")}
    assert artifacts.items() <= all_bytes(str(root)).items()
    # Another run finds all of it there; and the directory of shards reads by itself.
    run_recipe(str(root), clips)
    assert decoded == []
    assert open_store(str(path.parent)).num_rows == NUM_FRAMES
    # A second time there is nothing to do.
    after = all_bytes(str(root))
    merge(root)
    assert all_bytes(str(root)) == after


def test_a_plan_changes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = all_bytes(str(root))
    merge(root, "--plan", "--json")
    (line,) = capsys.readouterr().out.splitlines()
    planned = json.loads(line)
    assert (planned["num_shards"], planned["num_videos"], planned["num_rows"]) == (3, 6, NUM_FRAMES)
    assert planned["bytes_before"] == sum(path.stat().st_size for path in root.glob("percepts/*/*.parquet"))
    assert all_bytes(str(root)) == before


def test_killed_at_any_moment_nothing_is_lost(root: Path, made: Path) -> None:
    before = scan(made)

    def prepare() -> None:
        shutil.rmtree(root)
        shutil.copytree(made, root)

    def check(step: int) -> None:
        assert scan(root) == before, step
        merge(root)
        assert scan(root) == before, step
        assert is_clean(root), step
        assert len(list(root.glob("percepts/*/*"))) == 2, step

    steps = kill_at_every_step(
        prepare, lambda: merge(root), check, [compaction], "open_atomic", "write_sidecar", "remove", "_copy", "_check"
    )
    assert steps == 1 + 6 + 1 + 1 + 6  # the file, its videos, read back, the sidecar, three old shards


def test_readers_keep_what_they_opened(root: Path) -> None:
    windows = Windows(open_store(artifact(root)), length=5)
    ids_B = np.arange(len(windows))
    expected = Windows(open_store(artifact(root)), length=5).gather(ids_B).copy()
    merge(root)
    np.testing.assert_array_equal(windows.gather(ids_B), expected)


def test_a_reader_that_comes_in_between_looks_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scan(root)

    def locate_then_merge(*args: Any) -> Any:
        monkeypatch.setattr("stages.percepts.shards.locate", locate)
        found = locate(*args)
        merge(root)
        return found

    monkeypatch.setattr("stages.percepts.shards.locate", locate_then_merge)
    assert scan(root) == before


class Merges(Workers):
    """A pool whose shards are merged as soon as the first two are there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def map(self, factory: Callable[[], Any], items: Sequence[Any], **settings: Any) -> Iterator[tuple[int, Any]]:
        for position, result in super().map(factory, items, **settings):
            yield position, result
            if position == 1:
                merge(self.root)


def test_a_run_that_extracts_meanwhile_goes_on(
    clips: list[str], tmp_path: Path, decoded: list[str], made: Path
) -> None:
    root = tmp_path / "store"
    Store.open(str(root), create=True)
    index = index_of(tmp_path, [Path(clip) for clip in clips])
    percepts = extract(CONFIG, context_of(root, "a", workers=Merges(root)), index=index)
    assert len(decoded) == 6
    assert len(read_references(percepts.uri)) == 2
    here, there = percepts.open(), open_store(artifact(made))
    assert np.concatenate(list(here.pieces())).tobytes() == np.concatenate(list(there.pieces())).tobytes()
    # The same plan, begun again, pays for nothing twice.
    again = extract(CONFIG, context_of(root, "a"), index=index)
    assert len(decoded) == 6
    assert again.open().num_rows == NUM_FRAMES


def test_a_damaged_shard_is_not_copied(root: Path) -> None:
    path = min(root.glob("percepts/*/*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifact, match=r"is not what its sidecar says; mend the store first: .*--repair"):
        compact.main(["--store", str(root)])
    assert len(list(root.glob("percepts/*/*.parquet"))) == 3


def test_s3(s3_bucket: str, clips: list[str], made: Path) -> None:
    root = f"{s3_bucket}/store"
    run_recipe(root, clips)
    merge(root)
    (use,) = locate(root, read_references(artifact(root)))
    names = [name for name in list_files(root) if name.startswith("percepts/")]
    assert names == [use.path.replace(".parquet", ".json"), use.path]
    assert scan(root) == scan(made)
    assert is_clean(root)


def shard(name: str, num_bytes: int, final: bool = True) -> Shard:
    result = VideoResult(
        frames_expected=1, frames_decoded=1, frames_dropped=0, frames_missing=0, verdict="ok", reason="", final=final
    )
    return Shard(path=f"percepts/f/{name}.parquet", sha256="", bytes=num_bytes, rows=1, results={name: result})


def test_groups() -> None:
    shards = [shard("a", 60), shard("b", 200), shard("c", 60), shard("d", 60), shard("e", 60), shard("f", 90)]
    groups = merge_groups(shards, min_bytes=100, max_bytes=180)
    assert [[path[11] for path in group] for group in groups] == [["a", "c", "d"], ["e", "f"]]
    assert merge_groups(shards[:2], min_bytes=100, max_bytes=180) == []
    # A video that will be tried again keeps its shard out.
    assert merge_groups([shard("a", 1), shard("b", 1, final=False)], min_bytes=100, max_bytes=180) == []


def test_bad_requests(tmp_path: Path, root: Path) -> None:
    with pytest.raises(StoreError, match="there is no percepts store"):
        compact.main(["--store", str(tmp_path / "none")])
    with pytest.raises(UsageError, match="--min-mb 600 must be above 0 and at most --max-mb 512"):
        compact.main(["--store", str(root), "--min-mb", "600"])
