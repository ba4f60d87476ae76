"""One run of a recipe on two hosts that loses everything it can lose, beside the same run undisturbed.

The cable is cut while both hosts extract; then a training worker is killed, the cable is cut again, training goes on
with one worker and grows again when the host is back, and at last the driver is killed and started again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from cluster.workers import _WorkerActor
from pipeline.engine.store import Manifest, Store
from stages.models.weights import read_tensors
from stages.video.ledger import read_records
from tests import two_hosts
from tests.conftest import ROOT
from tests.stages.made_clips import make_clips
from tests.two_hosts import TwoHosts

pytestmark = [pytest.mark.root, pytest.mark.two_hosts]

NUM_CLIPS, NUM_FRAMES = 60, 60
NUM_STEPS, CHECKPOINT_EVERY = 800, 50
PATIENCE_SECONDS = 600


def recipe(clips: Path, store: Path) -> list[str]:
    return [
        *(sys.executable, "pipeline/run.py", "youtube", "--videos", str(clips), "--store", str(store)),
        *("--held-out", "0", "--extract.shard-frames", str(NUM_FRAMES)),
        *("--extract.convnet.layer", "blocks.2", "--extract.convnet.grid", "2", "--extract.convnet.input-px", "96"),
        *("--extract.decode.short-side-px", "96", "--extract.decode.crop-px", "96"),
        *("--pretrain.num-units", "64", "--pretrain.batch-size", "16", "--pretrain.num-steps", str(NUM_STEPS)),
        *("--pretrain.window-stride", "1", "--pretrain.validate-every-steps", "400"),
        *("--pretrain.checkpoint-every-steps", str(CHECKPOINT_EVERY)),
        # Rounding grows with every step that is taken by it; small steps keep it small.
        *("--pretrain.optimizer.learning-rate", "2e-4"),
    ]


@dataclass
class Story:
    """What happened, for the tests to look at."""

    store: Store
    undisturbed: Store
    log: Path
    checkpoints: list[int] = field(default_factory=list)
    """The newest checkpoint at each disturbance of the training."""

    @property
    def said(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def saying(self, words: str) -> list[str]:
        return [line for line in self.said if words in line]

    @property
    def newest_checkpoint(self) -> int:
        found = Path(self.store.root).glob("pretrain/*/checkpoints/step-*.safetensors")
        return max((int(path.stem.removeprefix("step-")) for path in found), default=0)

    def wait(self, what: str, happened: Callable[[], object], driver: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            tail = "\n".join(self.said[-30:])
            assert driver.poll() is None, f"the run ended before {what}:\n{tail}"
            assert time.monotonic() < deadline, f"no {what}:\n{tail}"
            time.sleep(0.1)

    def wait_for_checkpoint(self, driver: subprocess.Popen[bytes]) -> None:
        before = self.newest_checkpoint
        self.wait("checkpoint", lambda: self.newest_checkpoint > before, driver)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    if reason := two_hosts.missing():
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("two-hosts")
    clips = make_clips(root / "clips", (NUM_FRAMES,) * NUM_CLIPS)
    told = Story(Store(str(root / "disturbed")), Store(str(root / "undisturbed")), root / "log")
    command = [*recipe(clips, root / "disturbed"), "--workers", "2"]  # auto would take the host that is there
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    quiet_command = [*recipe(clips, root / "undisturbed"), "--workers", "1", "--in-process", "--no-tracking"]
    with (root / "undisturbed.log").open("wb") as log, two_hosts.two_hosts() as hosts:
        # Most of the time the hosts wait for one another: the undisturbed run takes nothing away from them.
        undisturbed = subprocess.Popen(quiet_command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        driver = hosts.on(1, *command, log=told.log)
        try:
            disturb_extraction(hosts, told, driver)
            disturb_training(hosts, told, driver)
            resubmitted = hosts.on(1, *command, log=told.log)
            assert resubmitted.wait(PATIENCE_SECONDS) == 0, "\n".join(told.said[-40:])
            assert undisturbed.wait(PATIENCE_SECONDS) == 0, (root / "undisturbed.log").read_text()
        finally:
            undisturbed.kill()
            undisturbed.wait()
            two_hosts.take_down()
            driver.wait()
    yield told
    shutil.rmtree(root)


def disturb_extraction(hosts: TwoHosts, told: Story, driver: subprocess.Popen[bytes]) -> None:
    percepts = Path(told.store.root) / "percepts"
    told.wait("percepts", lambda: any(percepts.rglob("*.parquet")), driver)
    told.wait("extraction on both hosts", lambda: hosts.pids(2, f"{_WorkerActor.__name__}.apply"), driver)
    hosts.cut()
    told.wait("word of the lost extractor", lambda: told.saying("a node was lost with a worker on"), driver)
    hosts.join()
    hosts.new_host_2()


def disturb_training(hosts: TwoHosts, told: Story, driver: subprocess.Popen[bytes]) -> None:
    told.wait_for_checkpoint(driver)
    told.wait("training on both hosts", lambda: hosts.pids(2, "RayTrainWorker"), driver)
    told.wait_for_checkpoint(driver)
    told.checkpoints.append(told.newest_checkpoint)
    for pid in hosts.pids(2, "RayTrainWorker"):
        os.kill(pid, signal.SIGKILL)
    told.wait("word of the killed worker", lambda: len(told.saying("lost a training worker")) == 1, driver)
    told.wait_for_checkpoint(driver)
    told.wait("training on both hosts", lambda: hosts.pids(2, "RayTrainWorker"), driver)

    told.checkpoints.append(told.newest_checkpoint)
    hosts.cut()
    told.wait("word of the lost host", lambda: len(told.saying("lost a training worker")) == 2, driver)
    told.wait("training on one host", lambda: told.saying("on 1 worker"), driver)
    hosts.join()
    hosts.new_host_2()
    told.wait("growth", lambda: told.saying("there is room for more workers"), driver)
    told.wait_for_checkpoint(driver)

    told.checkpoints.append(told.newest_checkpoint)
    for pid in hosts.pids(1, "pipeline/run.py"):
        os.kill(pid, signal.SIGKILL)
    driver.wait()


def manifest(store: Store, stage: str) -> Manifest:
    (found,) = [manifest for manifest in store.manifests() if manifest.stage == stage]
    return found


def test_the_percepts_are_those_of_an_undisturbed_run_to_the_byte(story: Story) -> None:
    disturbed, undisturbed = manifest(story.store, "extract"), manifest(story.undisturbed, "extract")
    assert disturbed.key == undisturbed.key
    assert disturbed.outputs == undisturbed.outputs
    shards = [sorted(Path(store.root, "percepts").rglob("*.parquet")) for store in (story.store, story.undisturbed)]
    names = [
        [str(path.relative_to(store.root)) for path in paths]
        for store, paths in zip((story.store, story.undisturbed), shards, strict=True)
    ]
    assert names[0] == names[1]
    assert len(names[0]) > 1
    assert all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in zip(*shards, strict=True))


def test_the_ledger_closes(story: Story) -> None:
    records = read_records(f"{story.store.directory('extract', manifest(story.store, 'extract').key)}/ledger.parquet")
    assert len(records) == NUM_CLIPS
    for record in records:
        assert record.frames_expected == record.frames_decoded == NUM_FRAMES, record
        assert record.frames_dropped == record.frames_missing == 0


def test_only_the_steps_since_the_last_checkpoint_are_repeated(story: Story) -> None:
    """Every new beginning is from a checkpoint that was there at the disturbance, or a later one."""
    resumed = [int(step) for line in story.said for step in re.findall(r"resuming from step (\d+) of", line)]
    assert len(resumed) >= 4
    assert resumed == sorted(resumed)
    for checkpoint in story.checkpoints:
        assert any(0 <= step - checkpoint <= CHECKPOINT_EVERY for step in resumed), (story.checkpoints, resumed)


def test_the_log_tells_what_happened(story: Story) -> None:
    order = [
        "a node was lost with a worker on",
        "training on 2 workers",
        "lost a training worker",
        "resuming from step",
        "lost a training worker",
        "training on 1 worker",
        "there is room for more workers than 1",
        "training on 2 workers",
        "pretrain composite: made",
    ]
    said = iter(story.said)
    missing = [words for words in order if not any(words in line for line in said)]
    assert not missing, "\n".join(story.said)


def test_the_other_host_is_measured_while_it_works(story: Story) -> None:
    """Its use stands beside that of the driver's host on the run in MLflow."""
    client = MlflowClient(story.store.default_tracking_uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    names = {name for run in runs for name in run.data.metrics}
    for measured in ("cpu_utilization", "system_memory_usage", "disk_usage"):
        assert f"system/{measured}_percentage" in names, sorted(names)
        assert [name for name in names if re.fullmatch(f"system/[^/]+/{measured}_percentage", name)], sorted(names)


def test_every_step_sees_the_samples_that_it_would_have_seen(story: Story) -> None:
    """The loss of each step depends on its samples; the order of sums in an all-reduce is all that may differ."""
    curves = []
    for store in (story.store, story.undisturbed):
        found = Path(store.directory("pretrain", manifest(store, "pretrain").key), "history.json")
        history = json.loads(found.read_text())
        assert [point["step"] for point in history["train"]] == list(range(NUM_STEPS))
        curves.append(np.array([point["loss"] for point in history["train"]]))
    # From one step to the next the loss changes by a tenth: other samples would show.
    assert np.abs(np.diff(curves[1]) / curves[1][1:]).mean() > 0.02
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-3)


def test_the_model_is_that_of_the_undisturbed_run(story: Story) -> None:
    weights = [
        read_tensors(f"{store.directory('pretrain', manifest(store, 'pretrain').key)}/model.safetensors")[0]
        for store in (story.store, story.undisturbed)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, ours in weights[0].items():
        theirs = weights[1][name]
        assert (ours - theirs).norm() <= 5e-3 * theirs.norm() + 1e-4, name
