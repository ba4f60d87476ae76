"""A classifier that takes videos: against the percept store, against `evaluate`, in MLflow, and behind its server."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest

from pipeline.commands.classify import main as classify
from pipeline.core.errors import ConfigError, DigestError, SourceError
from pipeline.core.stage import Context
from pipeline.engine.tracking.models import code_of_models
from stages.convnets.config import ConvnetConfig
from stages.datasets.labelled import ClipFinder, load_windows
from stages.evaluate import EvaluateConfig, evaluate
from stages.extract import ExtractConfig, extract
from stages.extraction.single_video import VideoExtractor, convnet_of, read_video
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models.config import ClassifierConfig
from stages.percepts.artifacts import Percepts
from stages.percepts.windows import clip_rows
from stages.pretraining.config import OptimizerConfig
from stages.serving.classifier import example
from stages.serving.video_classifier import STRIDE_FRAMES, VideoClassifier
from stages.standardize import StandardizeConfig, standardize
from stages.video.decode import DecodeConfig
from tests.stages.made_clips import make_index

LENGTHS = (40, 33, 29, 41, 12, 9)
"""Frames of clips 0 to 5, train and test in turn: the last two are shorter than a window."""
T = 16
LOCALLY = ["--env-manager", "local", "--workers", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classified")


@pytest.fixture(scope="module")
def percepts(root: Path) -> Percepts:
    index = make_index(root, LENGTHS, parts=("train", "test"))
    config = ExtractConfig(
        convnet=ConvnetConfig(layer="blocks.1", grid=2, input_px=64), decode=DecodeConfig(short_side_px=64, crop_px=64)
    )
    return extract(config, Context.for_test(root / "extract", store_uri=str(root)), index=index)


@pytest.fixture(scope="module")
def classifiers(root: Path, percepts: Percepts) -> Classifiers:
    statistics = standardize(
        StandardizeConfig(parts=("train",)), Context.for_test(root / "standardize"), percepts=percepts
    )
    config = FinetuneConfig(
        arm="LSTM",
        classifier=ClassifierConfig(num_units=8),
        training=EnsembleTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=0.03, num_warmup_steps=0), num_steps=20
        ),
        num_frames=T,
        labels_per_class=(1,),
        num_samplings=2,
    )
    made = finetune(config, Context.for_test(root / "finetune"), percepts=percepts, statistics=statistics)
    evaluate(
        EvaluateConfig(),
        Context.for_test(root / "scores"),
        classifiers=(made,),
        percepts=percepts,
    )
    return made


@pytest.fixture(scope="module")
def trained(classifiers: Classifiers) -> TrainedClassifiers:
    return TrainedClassifiers.load(classifiers.path("model.safetensors"))


def test_a_video_gives_the_percepts_of_the_store_to_the_bit(percepts: Percepts) -> None:
    store = percepts.open()
    extractor = VideoExtractor(store.extractor)
    for record in percepts.records():
        seen, rows = extractor(record.uri), store.rows(record.sha256)
        np.testing.assert_array_equal(seen.percepts_ND, store.percepts(record.sha256))
        np.testing.assert_array_equal(seen.pts_us_N, rows.pts_us_N)
        np.testing.assert_array_equal(seen.frame_N, rows.frame_N)
        np.testing.assert_array_equal(seen.segment_N, rows.segment_N)


def test_another_extractor_is_refused(percepts: Percepts, tmp_path: Path) -> None:
    extractor = percepts.open().extractor

    def changed(**settings: Any) -> Any:
        return replace(
            extractor, settings={**extractor.settings, "convnet": {**extractor.settings["convnet"], **settings}}
        )

    with pytest.raises(DigestError, match="the weights of efficientnet_lite0 here have sha256"):
        convnet_of(changed(weights_sha256="0" * 64))
    with pytest.raises(DigestError, match=r"differs from the one that made the percepts \(version\)"):
        convnet_of(changed(version=99))
    with pytest.raises(ConfigError, match="no convnet that can be run here"):
        convnet_of(replace(extractor, settings={"made": "by hand"}))
    with pytest.raises(SourceError, match=r"cannot read the video .*none.mp4: No such file"):
        read_video(str(tmp_path / "none.mp4"), extractor)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SourceError, match="cannot be decoded"):
        read_video(str(tmp_path / "text.mp4"), extractor)


def test_rows_of_windows_are_those_of_evaluation(percepts: Percepts, trained: TrainedClassifiers) -> None:
    store = percepts.open()
    for record in percepts.records():
        windows = load_windows(ClipFinder(store), [record], trained.transform, num_frames=T, stride=STRIDE_FRAMES)
        rows_WT = clip_rows(store.rows(record.sha256).segment_N, T, STRIDE_FRAMES)
        expected_TWD = windows.gather(windows.starts_N[0]).numpy()
        found_WTD = store.percepts(record.sha256)[rows_WT].astype(np.float32)
        found_WTD = (found_WTD - trained.transform.mean_D) / trained.transform.scale_D
        np.testing.assert_allclose(found_WTD.swapaxes(0, 1), expected_TWD, rtol=1e-6, atol=1e-6)
    gaps = np.repeat(np.array([0, 1, 2], np.int32), [3, 5, 2])
    assert clip_rows(gaps, 7, 8).tolist() == [[3, 4, 5, 6, 7, 7, 7]]
    assert clip_rows(gaps, 2, 2).tolist() == [[0, 1], [3, 4], [5, 6], [8, 9]]


def test_the_answer_is_that_of_evaluate(root: Path, percepts: Percepts, trained: TrainedClassifiers) -> None:
    table = pd.read_parquet(root / "scores" / "out" / "predictions.parquet")
    table = table[table["sampling"] == 0].set_index("video")
    classifier = VideoClassifier(trained)
    judged = [record for record in percepts.records() if record.part == "test"]
    assert len(judged) == 3
    for record in judged:
        answer, row = classifier(record.uri), table.loc[record.sha256]
        assert answer.action == row["predicted"]
        assert answer.probability == pytest.approx(float(row["probability"]), rel=1e-5)
        np.testing.assert_allclose(answer.probabilities_WC.sum(1), 1, rtol=1e-5)
        frames = record.frames_decoded or 0
        assert len(answer.start_us_W) == max(1, (frames - T) // STRIDE_FRAMES + 1)
        assert answer.start_us_W[0] == 0
        assert answer.end_us_W[0] == min(frames, T) * 40_000  # 25 frames a second
    answered = json.loads(json.dumps(answer.to_json(num_top=1)))
    assert answered["actions"] == [{"action": answer.action, "probability": answer.probability}]
    assert answered["timeline"][0]["end_s"] == pytest.approx(min(frames, T) / 25)


def test_what_cannot_be_served(classifiers: Classifiers, trained: TrainedClassifiers) -> None:
    with pytest.raises(ConfigError, match=r"holds 2 classifiers: give model\.safetensors"):
        VideoClassifier(classifiers.load(classifiers.files()[0]))
    with pytest.raises(ConfigError, match="does not say what made the percepts"):
        VideoClassifier(replace(trained, extractor=None))


def test_the_command_line(
    root: Path, classifiers: Classifiers, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    video = str(root / "clips" / "3.mp4")
    assert classify([classifiers.uri, video, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert said[0] == f"{answer['action']}  {answer['probability']:.1%}"
    assert [line.split()[1] for line in said[2:4]] == [found["action"] for found in answer["actions"]]
    assert said[4].split() == ["0.0", "s", "1.6", "s"]
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
    classify([f"{classifiers.uri}/model.safetensors", video, "--json", "--top", "1"])
    assert json.loads(capsys.readouterr().out)["actions"] == answer["actions"][:1]
    with pytest.raises(SourceError, match=r"cannot read the video .*none.mp4: No such file"):
        classify([classifiers.uri, str(root / "none.mp4")])


@pytest.fixture(scope="module")
def saved(root: Path, classifiers: Classifiers) -> Path:
    """The classifier as an MLflow model, with the code that it needs."""
    model = Classifiers.model
    assert model is not None
    data = root / "data"
    data.mkdir()
    for name in model.files:
        (data / name).write_bytes(Path(classifiers.path(name)).read_bytes())
    inputs, outputs = example(classifiers.uri)
    with pytest.warns(UserWarning, match="input example"):
        mlflow.pyfunc.save_model(
            str(root / "saved"),
            loader_module=model.loader,
            data_path=str(data),
            code_paths=code_of_models(root / "code"),
            signature=mlflow.models.infer_signature(inputs, outputs),
            pip_requirements=[],
        )
    return root / "saved"


@pytest.fixture(scope="module")
def server(saved: Path, root: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *f"-m mlflow models serve -m {saved} -h 127.0.0.1 -p {port}".split(), *LOCALLY],
            cwd=root,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 240
        try:
            while not _answers(f"{url}/ping"):
                assert process.poll() is None, (root / "server.log").read_text()
                assert time.monotonic() < deadline, (root / "server.log").read_text()
                time.sleep(0.3)
            yield url
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(server: str, question: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["predictions"]


def test_the_server_answers_about_a_real_clip(server: str, trained: TrainedClassifiers, shared_data: Path) -> None:
    clip = shared_data / "ucf101" / "Biking" / "v_Biking_g02_c05.avi"
    address = f"data:video/x-msvideo;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    (answer,) = ask(server, {"dataframe_records": [{"video": address}]})
    expected = VideoClassifier(trained)(clip)
    assert (answer["video"], answer["error"], answer["action"]) == ("data:", "", expected.action)
    assert answer["probability"] == pytest.approx(expected.probability, rel=1e-5)
    assert len(answer["timeline"]) == (180 - T) // STRIDE_FRAMES + 1
    assert answer["timeline"][-1]["end_s"] == pytest.approx(expected.end_us_W[-1] / 1e6)
    best = {found["action"]: found["probability"] for found in answer["timeline"][5]["actions"]}
    named = dict(zip(expected.class_names, expected.probabilities_WC[5].tolist(), strict=True))
    assert best == pytest.approx(named, rel=1e-4)


def test_the_server_says_what_it_cannot_read_and_reads_the_rest(server: str, root: Path) -> None:
    clip = root / "clips" / "1.mp4"
    good = f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    asked = [str(clip), clip.as_uri(), "data:video/mp4;base64,bm8gdmlkZW8=", "ftp://h/x.mp4", good]
    answers = ask(server, {"inputs": [{"video": address} for address in asked]})
    errors = [answer["error"] for answer in answers]
    for error, words in zip(
        errors,
        ("local paths are refused", "local paths are refused", "cannot be decoded", "give a single address", ""),
        strict=True,
    ):
        assert words in error
    assert [bool(answer["timeline"]) for answer in answers] == [False, False, False, False, True]
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, {"dataframe_records": [{"film": good}]})
    with refused.value as answer:
        assert answer.code == 400


def test_a_bad_address_takes_nothing_from_the_others(server: str, root: Path) -> None:
    good = f"DATA:video/mp4;base64,{base64.b64encode((root / 'clips' / '1.mp4').read_bytes()).decode()}"
    private = ("http://127.0.0.1:1/x.mp4", "http://[::1]/x.mp4", "http://2130706433/x", "https://localhost/x")
    bad = ("a\0b", "http://h\0/x", "x" * 300, "http://" + "x" * 300, "", "data:nothing", "http://", *private)
    answers = ask(server, {"dataframe_records": [{"video": address} for address in (good, *bad, good)]})
    assert [bool(answer["error"]) for answer in answers] == [False, *[True] * len(bad), False]
    assert answers[0]["video"] == "data:"
    for answer in answers[-1 - len(private) : -1]:
        assert "PERCEPTS_ALLOW_PRIVATE" in answer["error"]


def test_in_ones_own_python(saved: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTS_VIDEO_FOLDER", str(root / "clips"))
    model = mlflow.pyfunc.load_model(str(saved))
    (answer,) = model.predict(pd.DataFrame({"video": [str(root / "clips" / "1.mp4")]}))
    assert answer["error"] == ""
    assert answer["action"] in ("a", "b")
