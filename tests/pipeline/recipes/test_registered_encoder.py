"""The encoder as an MLflow model: logged, registered under a name and an alias, loaded by whoever knows that name."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pytest

from pipeline.commands import predict as predict_command
from pipeline.core.addresses.model_uris import resolve
from pipeline.core.errors import ConfigError, UsageError
from pipeline.core.stage import Context
from pipeline.engine.plan import Plan
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.tracker import Tracker
from pipeline.engine.tracking.values import Registration, RunDescription
from stages.finetuning.arm import ArmConfig, check_encoder
from stages.import_encoder import ImportEncoderConfig, import_encoder
from stages.models.artifacts import Encoder
from stages.models.config import ClassifierConfig, CompositeConfig
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import TrainingConfig
from tests.stages.made_clips import make_index, make_percepts

CONFIG = PretrainConfig(
    model=CompositeConfig(num_units=6, num_frames_in=4, num_frames_out=2),
    training=TrainingConfig(batch_size=4, num_steps=3),
    window_stride=1,
    validation_fraction=0.3,
)


@dataclass(frozen=True)
class Registered:
    """An encoder in a real MLflow, and what it came from."""

    tracker: Tracker
    manifest: Manifest
    encoder: Encoder
    percepts: Percepts

    @property
    def clip(self) -> str:
        """A video that has percepts."""
        return self.percepts.records()[2].uri


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    root = tmp_path_factory.mktemp("registered")
    percepts, statistics = make_percepts(root, make_index(root, (9, 10, 11, 5), ("unlabelled",)))
    store = Store.open(str(root / "store"), create=True)
    plan = Plan("encoder")
    node = replace(plan.add(pretrain, CONFIG), key="pretrain-made")
    directory = store.directory("pretrain", node.key)
    encoder = pretrain(CONFIG, Context.for_test(root, uri=directory), percepts=percepts, statistics=statistics)
    tracker = Tracker(store, f"sqlite:///{root}/mlflow.db", "encoder")
    tracker.start(RunDescription(command="a test"))
    run_id = tracker.start_stage(node, [], None)
    manifest = Manifest(
        stage="pretrain",
        version=1,
        key=node.key,
        name="pretrain",
        recipe="encoder",
        config={},
        inputs={},
        outputs=store.outputs("pretrain", node.key),
        mlflow_run_id=run_id,
    )
    store.commit(manifest)
    tracker.finish_stage(node, manifest, run_id)
    assert tracker.register(Registration(manifest=manifest, target="walks@best")) == "walks version 1, alias best"
    return Registered(tracker, manifest, encoder, percepts)


@pytest.fixture
def in_mlflow(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """What a user's own process knows: the address of MLflow."""
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.tracker.uri)
    return registered


def test_the_lines_of_the_readme(in_mlflow: Registered) -> None:
    """Window embeddings of a video, from an address and a file name alone: those of its percepts in the store."""
    clip = in_mlflow.clip

    from stages.models import load_encoder

    encoder = load_encoder("models:/walks@best")
    embeddings = encoder.embed(clip, stride=2)

    store = in_mlflow.percepts.open()
    percepts = store.percepts(in_mlflow.percepts.records()[2].sha256).astype(np.float32)
    windows = np.stack([percepts[first : first + 4] for first in range(0, len(percepts) - 3, 2)])
    assert embeddings.shape == (len(windows), 2 * 6)
    np.testing.assert_allclose(embeddings, Pretrained.load(in_mlflow.encoder.uri).represent(windows), atol=1e-3)
    assert encoder.extractor == store.extractor
    model_id = mlflow.MlflowClient().search_logged_models([in_mlflow.tracker.experiment_id])[0].model_id
    np.testing.assert_array_equal(load_encoder(f"models:/{model_id}").embed(clip, stride=2), embeddings)


def test_predict_takes_the_name(in_mlflow: Registered, tmp_path: Path) -> None:
    options = predict_command.PredictOptions(checkpoint="models:/walks@best", input=in_mlflow.clip, out=str(tmp_path))
    assert predict_command.predict(options) == ["reconstruction.npy", "prediction.npy", "prediction.png"]


@pytest.mark.parametrize("kind", ["alias", "version", "model"])
def test_a_store_is_enough_to_find_its_models(
    registered: Registered,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Where no variable names an MLflow, and without a file of MLflow in the working directory."""
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(registered.tracker.uri)
    model_id = client.search_logged_models([registered.tracker.experiment_id])[0].model_id
    name = {"alias": "walks@best", "version": "walks/1", "model": model_id}[kind]
    capfd.readouterr()
    path = resolve(f"models:/{name}", str(Path(registered.tracker.uri.removeprefix("sqlite:///")).parent))
    trained = Path(registered.encoder.path("model.safetensors"))
    assert (Path(path) / "model.safetensors").read_bytes() == trained.read_bytes()
    assert list(tmp_path.iterdir()) == []
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert capfd.readouterr() == ("", "")


def test_finetune_takes_the_name(in_mlflow: Registered, tmp_path: Path) -> None:
    """By the stage that copies it into a store: the same bytes, and a key of the bytes."""
    config = ImportEncoderConfig(encoder="models:/walks@best")
    adopted = import_encoder(config, Context.for_test(tmp_path))
    theirs = Path(in_mlflow.encoder.path("model.safetensors")).read_bytes()
    assert Path(adopted.path("model.safetensors")).read_bytes() == theirs
    assert import_encoder.snapshot is not None
    assert import_encoder.snapshot(config) == import_encoder.snapshot(
        ImportEncoderConfig(encoder=in_mlflow.encoder.uri)
    )
    check_encoder(ArmConfig(arm="LSTM pretrained", classifier=ClassifierConfig(num_units=6)), adopted)


def test_what_mlflow_refuses_in_a_name_is_left_out(in_mlflow: Registered) -> None:
    client, run_id = mlflow.MlflowClient(), in_mlflow.manifest.mlflow_run_id
    assert run_id is not None
    in_mlflow.tracker.metrics(run_id, 3, {"composite LSTM, conditional future error": 2.5, "a/b: c.d_e-f": 1.0})
    in_mlflow.tracker._client.wait()
    (point,) = client.get_metric_history(run_id, "composite LSTM conditional future error")
    assert (point.step, point.value) == (3, 2.5)
    (point,) = client.get_metric_history(run_id, "a/b: c.d_e-f")
    assert point.value == 1.0


def test_a_model_is_registered_once_and_its_alias_moves(in_mlflow: Registered) -> None:
    tracker, manifest = in_mlflow.tracker, in_mlflow.manifest
    assert tracker.register(Registration(manifest=manifest, target="walks@newest")) == "walks version 1, alias newest"
    assert tracker.register(Registration(manifest=manifest, target="runs")) == "runs version 1"
    with pytest.raises(UsageError, match="holds no model of pretrain-made"):
        tracker.register(Registration(manifest=replace(manifest, mlflow_run_id="0" * 32), target="walks"))


def test_unknown_names_and_models_of_pixels_say_so(in_mlflow: Registered, tmp_path: Path) -> None:
    from stages.models import load_encoder

    with pytest.raises(UsageError, match=r"MLflow at sqlite:.* has no model 'models:/walks@worst'"):
        load_encoder("models:/walks@worst")
    with pytest.raises(ConfigError, match="stride is 0"):
        load_encoder("models:/walks@best").embed(in_mlflow.clip, stride=0)
    pixels = Pretrained(in_mlflow.encoder.load())
    with pytest.raises(ConfigError, match="learned from pixels"):
        pixels.embed(in_mlflow.clip)
