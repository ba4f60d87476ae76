"""`percepts verify`: every kind of damage to a real store is found, named and mended."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.commands.verify import main
from pipeline.core.errors import StoreError, UsageError
from pipeline.core.files import join, write_json
from stages.percepts import Windows, open_store
from stages.percepts.shards import read_shards
from tests.pipeline.small_store import all_bytes, clips, made, root, run_recipe

__all__ = ["clips", "made", "root"]


def verify(root: Path | str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    """Exit status; findings and, last, the summary."""
    capsys.readouterr()
    status = main(["--store", str(root), "--json", "--grace-minutes", "0", *arguments])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def shard_of(root: Path) -> Path:
    return min(root.glob("percepts/*/*.parquet"))


def artifact(root: Path, stage: str) -> Path:
    return next((root / stage).iterdir())


def test_a_clean_store(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = all_bytes(str(root))
    status, (summary,) = verify(root, capsys=capsys)
    assert status == 0
    assert summary["num_shards"] == len(list(root.glob("percepts/*/*.parquet"))) == 3
    assert summary["frames"] == {"expected": 90, "decoded": 90, "dropped": 0, "missing": 0}
    assert (summary["num_videos"], summary["unused_shards"]) == (6, [])
    artifacts = [path for path in root.rglob("*") if path.is_file() and "-" in path.parent.name]
    hashed = [*artifacts, *root.glob("percepts/*/*")]
    assert summary["num_bytes_hashed"] == sum(path.stat().st_size for path in hashed)
    assert main(["--store", str(root), "--repair"]) == 0
    assert "clean" in capsys.readouterr().out
    assert all_bytes(str(root)) == before


def cut_short(root: Path) -> None:
    path = shard_of(root)
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(root: Path) -> None:
    path = shard_of(root)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_a_shard(root: Path) -> None:
    for path in (shard_of(root), shard_of(root).with_suffix(".json")):
        path.unlink()


def lose_the_rows(root: Path) -> None:
    shard_of(root).unlink()


def spoil_a_sidecar(root: Path) -> None:
    shard_of(root).with_suffix(".json").write_text("{")


def miscount(root: Path) -> None:
    """The digest is right, and the sidecar promises a row more than there is."""
    path = f"percepts/{shard_of(root).parent.name}/{shard_of(root).name}"
    (shard,) = read_shards(str(root), [path]).values()
    value = json.loads(shard_of(root).with_suffix(".json").read_text())
    outcome = next(iter(value["outcomes"].values()))
    outcome["frames_decoded"] += 1
    outcome["frames_expected"] += 1
    shard_of(root).with_suffix(".json").write_text(json.dumps(value))
    assert shard.rows == value["rows"]


def spoil_an_index(root: Path) -> None:
    path = artifact(root, "ingest") / "index.parquet"
    path.write_bytes(b"X" + path.read_bytes()[1:])


def spoil_a_ledger(root: Path) -> None:
    path = artifact(root, "extract") / "ledger.parquet"
    path.write_bytes(b"X" + path.read_bytes()[1:])


def lose_an_output(root: Path) -> None:
    (artifact(root, "standardize") / "statistics.safetensors").unlink()


def spoil_a_manifest(root: Path) -> None:
    (artifact(root, "extract") / "manifest.json").write_text("[]")


def leave_a_temporary(root: Path) -> None:
    shard_of(root).with_name("0123.parquet.tmp-1a2b3c4d").write_bytes(b"half")


def leave_an_unrecorded_shard(root: Path) -> None:
    shutil.copy(shard_of(root), shard_of(root).with_name("0123456789abcdef.parquet"))


DAMAGES: dict[Callable[[Path], None], set[str]] = {
    cut_short: {"damaged"},
    flip_a_bit: {"damaged"},
    lose_a_shard: {"missing"},
    lose_the_rows: {"missing"},
    spoil_a_sidecar: {"damaged"},
    miscount: {"account"},
    spoil_an_index: {"damaged", "made of damaged"},
    spoil_a_ledger: {"damaged", "made of damaged"},
    lose_an_output: {"missing"},
    spoil_a_manifest: {"damaged"},
    leave_a_temporary: {"temporary"},
    leave_an_unrecorded_shard: {"unrecorded"},
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_mended(
    damage: Callable[[Path], None], root: Path, made: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(root)
    damaged = all_bytes(str(root))
    status, (*findings, _) = verify(root, capsys=capsys)
    assert status == 1
    assert {finding["kind"] for finding in findings} == DAMAGES[damage]
    assert all(finding["what"] and finding["repair"] for finding in findings)
    assert all_bytes(str(root)) == damaged
    status, (*_, summary) = verify(root, "--repair", capsys=capsys)
    assert (status, summary["num_repaired"]) == (0, len(findings))
    run_recipe(str(root), clips)
    assert verify(root, capsys=capsys)[0] == 0
    assert all_bytes(str(root)) == all_bytes(str(made))


def test_only_what_is_damaged_is_made_again(root: Path, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.glob("percepts/*/*.parquet")}
    cut_short(root)
    verify(root, "--repair", capsys=capsys)
    run_recipe(str(root), clips)
    after = {path: path.stat().st_mtime_ns for path in root.glob("percepts/*/*.parquet")}
    assert after.keys() == before.keys()
    assert sum(after[path] == before[path] for path in after) == 2


def test_what_is_not_ours_is_reported_and_never_touched(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("notes.txt", "percepts/holiday.jpg", "photos/1.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    status, (*findings, _) = verify(root, capsys=capsys)
    assert status == 1
    assert {(finding["kind"], finding["path"]) for finding in findings} == {
        ("foreign", "notes.txt"),
        ("foreign", "percepts/holiday.jpg"),
        ("foreign", "photos/1.jpg"),
    }
    before = all_bytes(str(root))
    status, (*_, summary) = verify(root, "--repair", capsys=capsys)
    assert (status, summary["num_repaired"]) == (1, 0)
    assert all_bytes(str(root)) == before


def test_unfinished_artifacts_and_lost_inputs(root: Path, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (artifact(root, "extract") / "manifest.json").unlink()
    shutil.rmtree(artifact(root, "ingest"))
    status, (*findings, summary) = verify(root, "--repair", capsys=capsys)
    assert (status, summary["num_repaired"]) == (1, 0)
    assert [finding["kind"] for finding in findings] == ["unfinished"]
    assert main(["--store", str(root)]) == 0  # younger than an hour: a run may be going on
    run_recipe(str(root), clips)
    shutil.rmtree(artifact(root, "ingest"))
    status, (finding, _) = verify(root, capsys=capsys)
    assert (status, finding["kind"], finding["path"]) == (1, "input gone", f"extract/{artifact(root, 'extract').name}")
    (artifact(root, "extract") / "manifest.json").unlink()
    assert verify(root, "--repair", "--remove-unfinished", capsys=capsys)[0] == 0
    assert not list((root / "extract").iterdir())


def test_shards_that_nobody_uses_are_named_and_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(artifact(root, "extract"))
    shutil.rmtree(artifact(root, "standardize"))
    before = all_bytes(str(root))
    status, (summary,) = verify(root, "--repair", capsys=capsys)
    assert status == 0
    assert len(summary["unused_shards"]) == 3
    assert summary["unused_bytes"] == sum(path.stat().st_size for path in root.glob("percepts/*/*.parquet"))
    assert all_bytes(str(root)) == before


def test_a_table_for_people(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut_short(root)
    old = time.time() - 7200
    leave_a_temporary(root)
    os.utime(next(root.glob("percepts/*/*.tmp-*")), (old, old))
    assert main(["--store", str(root)]) == 1
    out = capsys.readouterr().out
    assert "truncated:" in out
    assert "remove it and 1 artifacts that use it" in out
    assert "2 findings, 0 repaired, 2 left" in out


def test_a_bad_request_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no percepts store"):
        main(["--store", str(tmp_path / "none")])
    with pytest.raises(UsageError, match="--remove-unfinished removes: give it with --repair"):
        main(["--store", str(tmp_path), "--remove-unfinished"])


def test_s3_from_extraction_to_repair(
    s3_bucket: str, clips: list[str], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same bytes as on a disk; windows; damage found and mended."""
    root = f"{s3_bucket}/store"
    manifests = run_recipe(root, clips)
    assert all_bytes(root) == all_bytes(str(made))
    assert verify(root, capsys=capsys)[0] == 0
    name = f"extract/{manifests['extract'].key}"
    here, there = (Windows(open_store(join(at, name)), length=5) for at in (str(made), root))
    ids_B = np.arange(0, len(here), 7)
    assert here.gather(ids_B).tobytes() == there.gather(ids_B).tobytes()
    (path, shard), *_ = read_shards(
        root, [use["path"] for use in json.loads((made / name / "shards.json").read_text())]
    ).items()
    write_json(join(root, path), "no percepts")
    status, (finding, _) = verify(root, capsys=capsys)
    assert (status, finding["kind"], finding["path"]) == (1, "damaged", shard.path)
    assert verify(root, "--repair", capsys=capsys)[0] == 0
    run_recipe(root, clips)
    assert verify(root, capsys=capsys)[0] == 0
    assert all_bytes(root) == all_bytes(str(made))
