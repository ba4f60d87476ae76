"""`percepts prune`: what goes is needed by nothing, what stays is whole, and percepts that are listed always stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine

from cluster.run_records import RUNNING, RunRecord, recorded, write_record
from pipeline.commands import prune, verify
from pipeline.core.addresses.model_uris import TRACKING_VARIABLE
from pipeline.core.errors import ConfigError, StoreError, UsageError
from pipeline.core.files import sha256_file
from pipeline.core.printable import count_of
from pipeline.engine import store as store_module
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking import models as tracking_models
from pipeline.upkeep import compaction
from stages.percepts import open_store
from stages.percepts.shards import folders, iter_complete
from tests.pipeline.killed import kill_at_every_step
from tests.pipeline.small_store import all_bytes, clips, plan_of, run_plan
from tests.stages.test_extract import decoded

__all__ = ["clips", "decoded"]

MONDAY = datetime(2026, 11, 2, 1, 0, tzinfo=UTC)


def run(root: str, videos: Sequence[str], week: int, name: str = "small") -> dict[str, Manifest]:
    """One run of the week, with its record."""
    plan = plan_of(videos)
    with time_machine.travel(MONDAY + timedelta(weeks=week)):
        Store.open(root, create=True)
        artifacts = tuple(f"{node.stage.name}/{node.key}" for node in plan.nodes)
        record = RunRecord(id="", name=name, recipe="small", plan=plan.digest, artifacts=artifacts)
        with recorded(root, record):
            return run_plan(root, plan)


@dataclass(frozen=True)
class Weeks:
    """A store of three weeks, not to be changed."""

    root: Path
    made: list[dict[str, Manifest]]
    """What each week's plan names."""
    left: list[str]
    """The videos of the third week."""
    num_unlisted: int
    """Videos of the one shard that the third week does not list."""


@pytest.fixture(scope="module")
def weeks(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Weeks:
    """Two more videos come in the second week, and those of one shard are gone in the third."""
    root = str(tmp_path_factory.mktemp("weeks") / "store")
    made = [run(root, clips[:4], 0), run(root, clips, 1)]
    shard = next(iter_complete(root, folders(root)[0]))
    left = [clip for clip in clips if sha256_file(clip) not in shard.results]
    return Weeks(Path(root), [*made, run(root, left, 2)], left, len(shard.results))


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow is known, whatever another test has left in the environment."""
    monkeypatch.delenv(TRACKING_VARIABLE, raising=False)


@pytest.fixture
def root(weeks: Weeks, tmp_path: Path) -> Path:
    """A copy of it, to be pruned."""
    shutil.copytree(weeks.root, tmp_path / "store")
    return tmp_path / "store"


def pruned(root: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert prune.main(["--store", str(root), "--json", *arguments]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def keys(report: dict[str, Any]) -> set[str]:
    return {artifact["key"] for artifact in report["artifacts"]}


def keys_of(*runs: dict[str, Manifest]) -> set[str]:
    return {manifest.key for run in runs for manifest in run.values()}


def is_clean(root: Path) -> bool:
    return verify.main(["--store", str(root), "--grace-minutes", "0"]) == 0


def test_the_last_runs_stay_with_all_that_they_were_made_of(
    root: Path,
    weeks: Weeks,
    clips: list[str],
    decoded: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second, third = weeks.made
    before = all_bytes(str(root))
    assert keys(pruned(root, capsys=capsys)) == set()
    assert keys(pruned(root, "--keep", "2", capsys=capsys)) == keys_of(first)
    planned = pruned(root, "--keep", "1", "--plan", capsys=capsys)
    assert keys(planned) == keys_of(first, second)
    assert [artifact["name"] for artifact in planned["artifacts"]][:3] == ["standardize", "extract", "ingest"]
    assert planned["num_bytes"] == sum(item["num_bytes"] for item in planned["artifacts"] + planned["shards"])
    # The percepts of the videos that no list has any more.
    assert [shard["num_videos"] for shard in planned["shards"]] == [weeks.num_unlisted]
    assert all_bytes(str(root)) == before, "a plan changed something"

    uri = Store.open(str(root)).directory("extract", third["extract"].key)
    percepts = open_store(uri)
    rows = {video: percepts.percepts(video).tobytes() for video in percepts.videos}
    done = pruned(root, "--keep", "1", "--remove", capsys=capsys)
    assert done | {"removed": False} == planned
    assert {manifest.key for manifest in Store.open(str(root)).manifests()} == keys_of(third)
    assert len(list(root.glob("percepts/*/*.parquet"))) == len(list(weeks.root.glob("percepts/*/*.parquet"))) - 1
    assert is_clean(root)
    left = open_store(uri)
    assert {video: left.percepts(video).tobytes() for video in left.videos} == rows
    decoded.clear()
    run(str(root), weeks.left, 3)
    assert decoded == []
    assert pruned(root, "--keep", "1", capsys=capsys)["num_bytes"] == 0


def test_what_an_alias_or_another_name_needs_stays(
    root: Path,
    weeks: Weeks,
    clips: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, _ = weeks.made
    monkeypatch.setattr(tracking_models, "aliased_keys", lambda uri: {first["standardize"].key, "of-another-store"})
    aliased = pruned(root, "--keep", "1", "--tracking-uri", "sqlite:///x", capsys=capsys)
    assert keys(aliased) == keys_of(second) - keys_of(first)
    assert aliased["shards"] == []
    run(str(root), clips, 4, name="other")
    assert keys(pruned(root, "--keep", "1", capsys=capsys)) == keys_of(first) - keys_of(second)


def test_runs_that_failed_count_for_none_and_equal_plans_once(
    root: Path, weeks: Weeks, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = weeks.made
    for week in (4, 5):
        run(str(root), weeks.left, week)
    failed = RunRecord(id="f", name="small", recipe="small", plan="f", status="failed", started_at="2026-12-20T00:00Z")
    write_record(str(root), failed)
    assert keys(pruned(root, "--keep", "2", capsys=capsys)) == keys_of(first)
    # Artifacts of before there were records: as many are kept as runs are missing to --keep.
    shutil.rmtree(root / "runs")
    assert keys(pruned(root, "--keep", "2", capsys=capsys)) == keys_of(first)
    run(str(root), weeks.left, 6)
    assert keys(pruned(root, "--keep", "2", capsys=capsys)) == keys_of(first)
    assert keys(pruned(root, "--keep", "1", capsys=capsys)) == keys_of(first, second) - keys_of(third)


def test_nothing_is_removed_while_a_run_goes_on_or_by_a_wrong_request(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC).isoformat()
    write_record(str(root), RunRecord(id="now", name="small", status=RUNNING, started_at=now, heartbeat_at=now))
    before = all_bytes(str(root))
    with pytest.raises(UsageError, match="now goes on in"):
        prune.main(["--store", str(root), "--keep", "1", "--remove"])
    for arguments, message in ((["--keep", "0"], "at least 1"), (["--plan", "--remove"], "give one of them")):
        with pytest.raises((UsageError, ConfigError), match=message):
            prune.main(["--store", str(root), *arguments])
    with pytest.raises(StoreError):
        prune.main(["--store", str(root / "nothing")])
    store = Store.open(str(root))
    store.commit(replace(next(store.manifests()), mlflow_run_id="1a2b"))
    with pytest.raises(UsageError, match="--tracking-uri"):
        prune.main(["--store", str(root), "--keep", "1"])
    assert all_bytes(str(root)) == before


def test_people_read_what_would_go_and_how_to_do_it(
    root: Path, weeks: Weeks, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert prune.main(["--store", str(root), "--keep", "1"]) == 0
    said = capsys.readouterr().out
    assert "small: would remove 6 artifacts, " in said
    assert f"percepts: would remove 1 shard of {count_of(weeks.num_unlisted, 'video')}, " in said
    assert said.endswith("nothing was removed: add --remove\n")
    assert prune.main(["--store", str(root)]) == 0
    assert capsys.readouterr().out.startswith("nothing to prune: 9 artifacts stay, ")


def test_killed_at_any_moment_what_is_left_is_whole(
    root: Path, weeks: Weeks, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(weeks.root, root)

    def check(step: int) -> None:
        shutil.rmtree(root / "runs")  # the record of the pruning that was killed
        shutil.copytree(weeks.root / "runs", root / "runs")
        pruned(root, "--keep", "1", "--remove", capsys=capsys)
        assert {manifest.key for manifest in Store.open(str(root)).manifests()} == keys_of(weeks.made[2])
        # A shard that lost its sidecar, and nothing else, is what verify takes away.
        assert is_clean(root) or step == 19
        assert verify.main(["--store", str(root), "--grace-minutes", "0", "--repair"]) == 0

    prune_now = ["--store", str(root), "--keep", "1", "--remove", "--json"]
    steps = kill_at_every_step(prepare, lambda: prune.main(prune_now), check, [store_module, compaction], "remove")
    assert steps == 3 * 6 + 2
