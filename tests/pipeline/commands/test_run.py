"""The command line: what people type wrong, what a plan shows, and that a killed run ends as an undisturbed one.

The undisturbed run is `ray job submit -- python pipeline/run.py demo` against a real head that asks for a token, the
killed one has Rays of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.errors import UsageError
from pipeline.core.printable import is_printable
from pipeline.engine.store import Manifest, Store
from pipeline.recipes.recipe import RECIPES
from pipeline.run import main
from tests.conftest import ROOT
from tests.pipeline.ray_head import BIN, submit_job
from tests.pipeline.small_demo import SMALL_DEMO


def run(arguments: list[str], timeout: float = 800.0, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | variables
    command = [sys.executable, str(ROOT / "pipeline" / "run.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout, env=environment, cwd="/"
    )


WRONG = {
    "no such recipe": (["dmeo"], "there is no recipe 'dmeo'; did you mean 'demo'?"),
    "no such flag": (["demo", "--nosuch", "1"], "nosuch"),
    "a value that breaks a rule": (["demo", "--pretrain.num-steps", "0"], "num_steps is 0; it must be at least 1"),
    "no such folder": (["youtube", "--videos", "/no/such/folder"], "there is no file or folder '/no/such/folder'"),
    "no such layer": (["demo", "--extract.convnet.layer", "blocks.99"], "has no layer 'blocks.99'"),
    "an unwritable store": (["demo", "--store", "/proc/percepts"], "cannot be written"),
    "a protocol nobody knows": (["demo", "--store", "nosuch://x"], "cannot reach 'nosuch://x"),
    "a remote store without tracking": (["demo", "--store", "memory://x"], "pass --tracking-uri"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG.keys())
def test_bad_input_is_a_usage_error_that_says_what_to_do(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        main(arguments)
    assert words in " ".join(str(error.value).split())


def test_a_job_must_name_a_lasting_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UsageError, match="pass --store a lasting directory or URL"):
        main(["demo"])


def test_bad_input_is_one_line_and_status_2(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not these")
    wrong_digest = [
        *("demo", "--store", str(tmp_path / "store"), "--extract.convnet.name", "vgg16"),
        *("--extract.convnet.layer", "fc6", "--extract.convnet.grid", "1"),
        *("--extract.convnet.weights", str(tmp_path / "weights.pth"), "--extract.convnet.weights-sha256", "0" * 64),
    ]
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "store.json").write_text('{"format": 99}')
    newer = ["demo", "--plan", "--store", str(tmp_path / "newer")]
    for arguments, words in ((wrong_digest, "sha256"), (newer, "newer version"), (["nosuch"], "the recipes are")):
        done = run(arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stdout == ""


def test_help_explains_the_options_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", "--help"])
    assert end.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for flag in ("--store", "--address", "--tracking-uri", "--pretrain.num-steps", "--help-all"):
        assert flag in said
    assert main(["--help"]) == 0
    assert "moving-mnist" in capsys.readouterr().out


def test_a_plan_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL_DEMO, "--plan", "--store", str(tmp_path / "store")]) == 0
    said = capsys.readouterr().out
    assert "0 have, 11 to make" in said
    assert "never made" in said
    assert "1,088" in said  # 8 clips of 40 frames and 24 of 32
    assert "not known" not in said, "every stage has an estimate before this store has one of its artifacts"
    assert not (tmp_path / "store").exists()


def digests(store: Store) -> dict[str, str]:
    """Every output of every artifact, by stage, key and file."""
    return {
        f"{manifest.stage}/{manifest.key}/{name}": output.sha256
        for manifest in store.manifests()
        for name, output in manifest.outputs.items()
    }


@pytest.fixture(scope="module")
def undisturbed(
    head: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, subprocess.CompletedProcess[str]]:
    root = tmp_path_factory.mktemp("undisturbed")
    chosen = ["--register", "motions@best", "--cache", str(root / "cache"), "--store", str(root / "store")]
    variables = ["env", "PERCEPTS_COMMIT=0123abc", "FORCE_COLOR=1"]
    command = [*variables, "python", "pipeline/run.py", *SMALL_DEMO, "--workers", "1", *chosen]
    done = submit_job(command, head, ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    registered = "registered the encoder as motions version 1, alias best: models:/motions@best"
    assert done.stdout.index(registered) < done.stdout.index("evaluate: started")
    return Store.open(str(root / "store")), done


def assert_is_its_report(report: str, store: Store) -> None:
    assert report.startswith(store.root)
    assert report.endswith("report.html")
    assert "LSTM pretrained" in Path(report).read_text()


@pytest.mark.ray
def test_a_submitted_job_runs_the_demo_and_tracks_its_commit(
    undisturbed: tuple[Store, subprocess.CompletedProcess[str]], head: dict[str, str]
) -> None:
    store, done = undisturbed
    # Behind the run's own last line stands what Ray says.
    assert_is_its_report([line for line in done.stdout.splitlines() if line.endswith("report.html")][-1], store)
    manifests = list(store.manifests())
    assert len(manifests) == 11
    assert {manifest.commit for manifest in manifests} == {"0123abc"}
    log = done.stdout[done.stdout.index("opening MLflow") : done.stdout.index("report.html")]
    lines = log.split("\n")
    assert all(is_printable(character) for line in lines for character in line)
    assert max(Counter(line for line in lines if ": " in line).values()) == 1  # an event is one line

    stranger = {k: v for k, v in head.items() if k != "RAY_AUTH_TOKEN"} | {"RAY_AUTH_MODE": "disabled"}
    listing = [str(BIN / "ray"), "job", "list"]
    for environment, admitted in ((head, True), (stranger, False)):
        answer = subprocess.run(listing, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert (answer.returncode == 0) == admitted, answer.stdout + answer.stderr


def test_the_whole_demo_has_every_stage_and_frame(
    undisturbed: tuple[Store, subprocess.CompletedProcess[str]],
) -> None:
    store, _ = undisturbed
    by_name = {manifest.name: manifest for manifest in store.manifests()}
    assert len(by_name) == 11
    scores = json.loads((Path(store.directory("evaluate", by_name["evaluate"].key)) / "scores.json").read_text())
    assert {row["model"] for row in scores["rows"]} == {"single frame", "LSTM from scratch", "LSTM pretrained"}
    assert by_name["extract"].facts["num_frames"] == 1088


def test_the_ledger_lists_every_video(undisturbed: tuple[Store, subprocess.CompletedProcess[str]]) -> None:
    store, _ = undisturbed
    command = [sys.executable, "-m", "pipeline.commands", "ledger", "--store", store.root, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 32
    assert all(row["verdict"] == "ok" and row["frames_decoded"] == row["frames_expected"] for row in rows)
    assert {row["codec"] for row in rows} == {"h264"}


def test_logged_models_load_again(
    undisturbed: tuple[Store, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = undisturbed
    mlflow.set_tracking_uri(store.default_tracking_uri)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("percepts/demo")
    assert experiment is not None
    models = {model.name: model for model in client.search_logged_models([experiment.experiment_id], max_results=10)}
    assert set(models) == {"encoder", *(f"classifiers {arm}" for arm in ("frame", "scratch", "pretrained"))}
    files = [path.name for path in Path(models["encoder"].artifact_location).rglob("*") if path.is_file()]
    assert "model.safetensors" in files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt"))]
    x_NTD = np.random.default_rng(0).random((2, 16, 384), np.float32)
    state_NR = mlflow.pyfunc.load_model(models["encoder"].model_uri).predict(x_NTD)
    assert np.asarray(state_NR).shape == (2, 32)
    clip = next(Path(store.root, "synthesize").rglob("*.mp4"))
    monkeypatch.setenv("PERCEPTS_VIDEO_FOLDER", str(clip.parent))
    classifier = mlflow.pyfunc.load_model(models["classifiers pretrained"].model_uri)
    (answer,) = classifier.predict(pd.DataFrame({"video": [str(clip)]}))
    assert answer["error"] == ""
    assert 1 / 8 <= answer["probability"] <= 1


def test_a_registered_encoder_is_finetuned_in_the_place_of_pretraining(
    undisturbed: tuple[Store, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """By name, in a copy of the store: only what comes after the encoder is made, and the scores are the same.

    Those of a run on Ray, though this one has none.
    """
    store, _ = undisturbed
    before = {manifest.key for manifest in store.manifests()}
    shutil.copytree(store.root, tmp_path / "store")
    of_pretraining = {at for at, word in enumerate(SMALL_DEMO) if word.startswith("--pretrain.")}
    demo = [word for at, word in enumerate(SMALL_DEMO) if not {at, at - 1} & of_pretraining]
    arguments = [*demo, "--encoder", "models:/motions@best", "--workers", "1", "--store", str(tmp_path / "store")]
    arguments += ["--in-process"]
    done = run(arguments, MLFLOW_TRACKING_URI=store.default_tracking_uri)
    assert done.returncode == 0, done.stderr
    copy = Store.open(str(tmp_path / "store"))
    made = {manifest.name: manifest for manifest in copy.manifests() if manifest.key not in before}
    assert set(made) == {"import_encoder", "finetune pretrained", "evaluate", "forecast", "visualize"}
    scores = [
        sorted(json.dumps({**row, "encoder": ""}) for row in json.loads(Path(path, "scores.json").read_text())["rows"])
        for path in Path(copy.root, "evaluate").iterdir()
    ]
    assert len(scores) == 2
    assert scores[0] == scores[1]


def test_a_run_killed_again_and_again_ends_with_the_same_bytes(
    undisturbed: tuple[Store, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """kill -9 of the driver while it trains and finetunes on Ray; one without Ray goes on, to the bytes of one with.

    While it extracts, `tests/test_chaos.py` kills it.
    """
    store, _ = undisturbed
    root = str(tmp_path / "store")
    arguments = [*SMALL_DEMO, "--workers", "1", "--store", root]
    for stage in ("pretrain", "finetune"):
        kill_when_begun(arguments, Path(root) / stage, tmp_path / "log")
    before = {manifest.key: manifest.finished_at for manifest in Store(root).manifests()}
    done = run([*arguments, "--in-process"])
    assert done.returncode == 0, done.stderr
    assert_is_its_report(done.stdout.strip().splitlines()[-1], Store(root))
    after = {manifest.key: manifest for manifest in Store(root).manifests()}
    assert digests(Store(root)) == digests(store)
    assert {key: after[key].finished_at for key in before} == before
    assert_tracked(after, Store(root))


def test_the_page_of_a_failed_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "toy", ("tests.pipeline.commands.toy_recipe", "a toy"))
    store = str(tmp_path / "store")
    with pytest.raises(ValueError, match="asked to fail"):
        main(["toy", "--fail", "--in-process", "--store", store])
    client = MlflowClient(Store.open(store).default_tracking_uri)
    experiment = client.get_experiment_by_name("percepts/toy")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "attributes.run_name LIKE 'toy%'")
    assert parent.info.status == "FAILED"
    assert "ValueError: asked to fail" in parent.data.tags["mlflow.note.content"]


def kill_when_begun(arguments: list[str], directory: Path, log: Path) -> None:
    """Start a run and kill its driver a little after a stage has begun to write."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [sys.executable, str(ROOT / "pipeline" / "run.py"), *arguments]
    with log.open("ab") as output:
        driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    deadline = time.monotonic() + 600
    while not directory.exists() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert directory.exists(), log.read_text()[-3000:]


def assert_tracked(manifests: dict[str, Manifest], store: Store) -> None:
    """No run of a killed driver is still said to be running, and every artifact's own run is finished."""
    client = MlflowClient(store.default_tracking_uri)
    experiment = client.get_experiment_by_name("percepts/demo")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {r.info.status for r in runs} == {"FINISHED", "KILLED"}
    finished = {r.info.run_id for r in runs if r.info.status == "FINISHED"}
    assert {manifest.mlflow_run_id for manifest in manifests.values()} <= finished
