"""`percepts takedown`: nothing of the video is left, it does not come back, and all that saw it is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from pipeline.commands import compact, takedown, verify
from pipeline.core.errors import StoreError, UsageError
from pipeline.core.files import read_json, sha256_file
from pipeline.engine.store import Store
from pipeline.engine.tracking.tracker import Tracker
from pipeline.engine.tracking.values import RunDescription
from pipeline.upkeep import compaction
from pipeline.upkeep import takedown as upkeep_takedown
from stages.digits_and_patches import CutPatchesConfig, cut_patches
from stages.extract import extract
from stages.percepts import open_store
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.takedowns import read_takedowns
from tests.pipeline.killed import kill_at_every_step
from tests.pipeline.small_store import CONFIG, all_bytes, clips, made, plan_of, root, run_recipe
from tests.stages.test_extract import context_of, decoded, index_of

__all__ = ["clips", "decoded", "made", "root"]


def percepts_of(root: Path | str) -> Percepts:
    manifest = next(Store.open(str(root)).manifests("extract"))
    return Percepts(Store.open(str(root)).directory("extract", manifest.key))


def take_down(video: str, root: Path | str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert takedown.main([video, "--store", str(root), "--json", *arguments]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def is_clean(root: Path | str) -> bool:
    return verify.main(["--store", str(root), "--grace-minutes", "0"]) == 0


def holds(root: Path, needle: bytes) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_nothing_of_it_is_left(
    root: Path, made: Path, clips: list[str], decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_store(percepts_of(made).uri)
    video = sha256_file(clips[2])
    rows = before.percepts(video).tobytes()
    report = take_down(clips[2], root, "--reason", "asked for by its author", capsys=capsys)
    assert (report["video"], report["num_rows"], len(report["shards"])) == (video, 14, 1)
    assert report["uris"] == [clips[2]]
    store = percepts_of(root).open()
    assert store.videos == tuple(other for other in before.videos if other != video)
    for other in store.videos:
        assert store.percepts(other).tobytes() == before.percepts(other).tobytes()
    assert holds(made, rows[:64])
    assert not holds(root, rows[:64])
    assert is_clean(root)
    # Neither this nor another run brings it back.
    run_recipe(str(root), clips)
    assert decoded == []
    again = extract(CONFIG, context_of(root, "again"), index=index_of(root / "elsewhere", [Path(c) for c in clips]))
    assert decoded == []
    (row,) = [record for record in again.records() if record.sha256 == video]
    assert (row.verdict, row.frames_expected, row.frames_dropped) == ("rejected", 14, 14)
    assert row.reason.startswith("taken down 20")
    assert row.reason.endswith(": asked for by its author")
    assert again.open().videos == store.videos


def test_a_plan_changes_nothing(root: Path, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = all_bytes(str(root))
    planned = take_down(clips[2], root, "--plan", capsys=capsys)
    assert all_bytes(str(root)) == before
    done = take_down(clips[2], root, capsys=capsys)
    assert planned | {"is_plan": False} == done


def test_killed_at_any_moment_and_run_again(
    root: Path, made: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(made, root)

    prepare()
    (root / "takedowns").mkdir()
    take_down(clips[2], root, capsys=capsys)
    right = {name: digest for name, digest in all_bytes(str(root)).items() if not name.startswith("takedowns/")}

    def check(step: int) -> None:
        # From the first change on nobody is shown the video; before it, nothing has happened.
        videos = percepts_of(root).open().videos
        assert len(videos) == (6 if step == 0 else 5), step
        report = take_down(clips[2], root, capsys=capsys)
        assert [entry["stage"] for entry in report["lineage"]] == ["ingest", "extract", "standardize"]
        assert is_clean(root), step
        found = {name: digest for name, digest in all_bytes(str(root)).items() if not name.startswith("takedowns/")}
        assert found == right, step

    def act() -> None:
        take_down(clips[2], root, capsys=capsys)

    names = ("write_takedown", "open_atomic", "write_sidecar", "remove", "_copy")
    assert (
        kill_at_every_step(prepare, act, check, [upkeep_takedown, compaction], *names) == 7
    )  # two videos stay in the shard


def test_verify_finishes_what_was_begun(root: Path, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As when a run that was going on meanwhile wrote the video's shard after the takedown."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep_takedown, "_remove_percepts", lambda *args: None)
        take_down(clips[2], root, capsys=capsys)
    assert verify.main(["--store", str(root), "--json"]) == 1
    finding = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (finding["kind"], finding["takes_down"]) == ("taken down", sha256_file(clips[2]))
    assert verify.main(["--store", str(root), "--repair"]) == 0
    assert is_clean(root)
    assert take_down(clips[2], root, capsys=capsys)["num_rows"] == 0


def test_what_had_seen_it_is_made_again_without_it(
    root: Path, clips: list[str], decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    untouched = run_recipe(str(root), clips[:2])
    report = take_down(clips[2], root, "--remove-artifacts", capsys=capsys)
    assert [(s["stage"], s["is_removable"]) for s in report["lineage"]] == [
        ("ingest", False),
        ("extract", True),
        ("standardize", True),
    ]
    assert {m.key for m in Store.open(str(root)).manifests("standardize")} == {untouched["standardize"].key}
    decoded.clear()
    manifests = run_recipe(str(root), clips)
    assert decoded == []
    assert manifests["extract"].facts["num_frames"] == 10 + 12 + 16 + 18 + 20
    directory = Store.open(str(root)).directory("standardize", manifests["standardize"].key)
    assert Statistics(directory).moments().num_rows == 10 + 12 + 16 + 18 + 20
    assert is_clean(root)
    # What was made since has not seen it.
    remains = {s["stage"]: s["remains"] for s in take_down(clips[2], root, capsys=capsys)["lineage"]}
    assert remains["standardize"] == "nothing: it was made again since, without the video"
    assert remains["extract"] == "nothing: it was made again since, without the video"


def test_a_compacted_store_and_every_extractor(
    root: Path, clips: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(CONFIG, convnet=replace(CONFIG.convnet, grid=2))
    run_recipe(str(root), clips, other)
    compact.main(["--store", str(root)])
    report = take_down(sha256_file(clips[5]), root, capsys=capsys)
    assert (len(report["shards"]), report["num_rows"]) == (2, 2 * 20)
    for manifest in Store.open(str(root)).manifests("extract"):
        uri = Store.open(str(root)).directory("extract", manifest.key)
        assert open_store(uri).num_rows == 10 + 12 + 14 + 16 + 18
    assert is_clean(root)


def test_patches_are_not_cut_of_it(root: Path, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    take_down(clips[2], root, capsys=capsys)
    index = index_of(root / "elsewhere", [Path(clip) for clip in clips])
    config = CutPatchesConfig(num_frames=4, patches_per_video=2)
    patches = cut_patches(config, context_of(root, "cut_patches"), index=index)
    assert sha256_file(clips[2]) not in json.dumps(read_json(patches.path("patches.json")))


def test_s3(s3_bucket: str, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    root = f"{s3_bucket}/store"
    run_recipe(root, clips)
    report = take_down(clips[0], root, capsys=capsys)
    assert (report["num_rows"], report["is_tracked"]) == (10, False)
    assert percepts_of(root).open().num_rows == 12 + 14 + 16 + 18 + 20
    assert is_clean(root)
    assert read_takedowns(root).keys() == {sha256_file(clips[0])}


def test_runs_and_models_are_named_and_tagged(root: Path, clips: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(str(root))
    uri = store.default_tracking_uri
    tracker = Tracker(store, uri, "small")
    tracker.start(RunDescription(command="a command"))
    nodes = {node.name: node for node in plan_of(clips).nodes}
    run_ids = {name: tracker.start_stage(node, [], None) for name, node in nodes.items()}
    stranger = tracker.start_stage(plan_of(clips[:2]).nodes[0], [], None)
    client = MlflowClient(uri)
    model = client.create_logged_model(tracker.experiment_id, "encoder", source_run_id=run_ids["standardize"])
    report = take_down(clips[2], root, capsys=capsys)
    named = {s["stage"]: [run["run_id"] for run in s["runs"]] for s in report["lineage"]}
    assert named == {name: [run_id] for name, run_id in run_ids.items()}
    models = {s["stage"]: [model for run in s["runs"] for model in run["models"]] for s in report["lineage"]}
    assert models == {"ingest": [], "extract": [], "standardize": [model.model_id]}
    tag = f"percepts.takedown.{sha256_file(clips[2])[:16]}"
    assert tag in client.get_run(run_ids["extract"]).data.tags
    assert tag in client.get_logged_model(model.model_id).tags
    assert tag not in client.get_run(stranger).data.tags
    assert takedown.main([clips[2], "--store", str(root), "--plan"]) == 0
    out = capsys.readouterr().out
    assert f"models:/{model.model_id}" in out
    assert "make it again without the video, or delete it: --remove-artifacts" in " ".join(out.split())


def test_bad_requests(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"knows no video 'nothing\.mp4'; give a file, a URI or a sha256"):
        takedown.main(["nothing.mp4", "--store", str(root)])
    (tmp_path / "stranger.mp4").write_bytes(b"never indexed")
    with pytest.raises(UsageError, match="knows no video"):
        takedown.main([str(tmp_path / "stranger.mp4"), "--store", str(root)])
    with pytest.raises(StoreError, match="there is no percepts store"):
        takedown.main(["a.mp4", "--store", str(tmp_path / "none")])
    assert not (root / "takedowns").exists()
