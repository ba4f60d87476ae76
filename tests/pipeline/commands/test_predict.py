"""predict, on every kind of input. Authorities: the model called by hand; Pillow; the process's exit status."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.commands.predict import PredictOptions, main, predict
from pipeline.core.errors import ConfigError, SourceError
from pipeline.options.command_line import run_command
from stages.datasets import moving_mnist
from stages.datasets.mnist import read_digits
from stages.datasets.patches import ChannelMoments
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation
from tests.stages.datasets.test_mnist import write_mnist
from tests.stages.made_clips import make_index, make_percepts


def save(uri: Path, standardisation: Standardisation | None = None, **settings: object) -> Pretrained:
    config = CompositeSpec(**{"num_units": 7, "num_frames_in": 4, "num_frames_out": 3, **settings})  # type: ignore[arg-type]
    torch.manual_seed(0)
    pretrained = Pretrained(Composite(config).eval(), standardisation)
    pretrained.save(f"{uri}/model.safetensors")
    return pretrained


@pytest.fixture(scope="module")
def percepts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Percepts, Statistics]:
    root = tmp_path_factory.mktemp("clips")
    return make_percepts(root, make_index(root, (9, 10, 11, 5)))


@torch.no_grad()
def test_moving_mnist_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mnist(tmp_path, num_train=24, num_test=3)
    model = save(tmp_path, dim=4096, loss="bernoulli").composite
    arguments = [str(tmp_path), "moving-mnist:7", "--num-frames", "5", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--mnist", str(tmp_path)]) == 0
    written = capsys.readouterr().out.split()
    names = ["reconstruction.npy", "prediction.npy", "prediction.png", "prediction.gif"]
    assert written == [f"{tmp_path}/out/{name}" for name in names]
    images = read_digits(str(tmp_path))["test"].images
    x = torch.from_numpy(moving_mnist.sequences(images, seed=7, stream="test", first=0, num=1, num_frames=4))
    found = np.load(tmp_path / "out" / "prediction.npy")
    assert found.shape == (5, 64, 64)
    np.testing.assert_allclose(found.reshape(5, 1, 4096), model.open_loop_means(x, 5).prediction, rtol=1e-5)
    found = np.load(tmp_path / "out" / "reconstruction.npy")
    np.testing.assert_allclose(found.reshape(4, 1, 4096), model.open_loop_means(x).reconstruction.flip(0), rtol=1e-5)
    with Image.open(tmp_path / "out" / "prediction.gif") as moving:
        assert moving.n_frames == 9


@torch.no_grad()
def test_a_file_of_percepts(tmp_path: Path, percepts: tuple[Percepts, Statistics]) -> None:
    rule = Standardisation.of(percepts[1].moments())
    model = save(tmp_path, rule, dim=108).composite
    uri = next(Path(percepts[0].uri).parent.parent.glob("percepts/**/*.parquet"))
    written = predict(PredictOptions(checkpoint=str(tmp_path), input=str(uri), out=str(tmp_path / "out")))
    assert written == ["reconstruction.npy", "prediction.npy", "prediction.png"]
    store = percepts[0].open()
    raw = store.select(sorted(store.videos)).percepts(min(v for v in store.videos if len(store.percepts(v)) >= 7))[:4]
    x = torch.from_numpy((raw.astype(np.float32) - rule.mean_D) / rule.scale_D)[:, None]
    expected = model.open_loop_means(x).prediction[:, 0].numpy() * rule.scale_D + rule.mean_D
    np.testing.assert_allclose(np.load(tmp_path / "out" / "prediction.npy"), expected, rtol=1e-4, atol=1e-5)


def test_a_video_for_a_model_of_percepts(tmp_path: Path, percepts: tuple[Percepts, Statistics]) -> None:
    save(tmp_path, Standardisation.of(percepts[1].moments()), dim=108)
    record = percepts[0].records()[2]
    options = {"checkpoint": str(tmp_path), "input": record.uri}
    written = predict(PredictOptions(**options, percepts=percepts[0].uri, out=str(tmp_path / "video")))
    assert "prediction.gif" in written
    with pytest.raises(ConfigError, match="--percepts"):
        predict(PredictOptions(**options, out=str(tmp_path / "none")))
    # The same percepts out of the store give the same prediction.
    store = percepts[0].open().select([record.sha256])
    raw = store.percepts(record.sha256)[:4].astype(np.float32)
    pretrained = Pretrained.load(str(tmp_path))
    x = pretrained.standardise(torch.from_numpy(raw))[:, None]
    rule = pretrained.transform
    assert rule is not None
    expected = pretrained.composite.open_loop_means(x).prediction[:, 0].numpy() * rule.scale_D + rule.mean_D
    np.testing.assert_allclose(np.load(tmp_path / "video" / "prediction.npy"), expected, rtol=1e-3, atol=1e-4)


def test_a_video_for_models_of_pixels(tmp_path: Path, percepts: tuple[Percepts, Statistics]) -> None:
    video = percepts[0].records()[2].uri
    save(tmp_path / "grey", dim=4096, loss="bernoulli", decoders="future")
    written = predict(PredictOptions(checkpoint=str(tmp_path / "grey"), input=video, out=str(tmp_path / "a")))
    assert written == ["prediction.npy", "prediction.png", "prediction.gif"]
    moments = ChannelMoments(mean=(100, 110, 120), std=(50, 60, 70))
    rule = Standardisation(*(np.tile(array_C, 1024) for array_C in moments.arrays))
    save(tmp_path / "patch", rule, dim=3072, decoders="autoencoder")
    written = predict(PredictOptions(checkpoint=str(tmp_path / "patch"), input=video, out=str(tmp_path / "b")))
    assert written == ["reconstruction.npy", "prediction.png", "prediction.gif"]
    assert np.load(tmp_path / "b" / "reconstruction.npy").shape == (4, 32, 32, 3)


def test_bad_requests_say_what_to_do(tmp_path: Path, percepts: tuple[Percepts, Statistics]) -> None:
    save(tmp_path, dim=4096, loss="bernoulli", num_frames_in=8)
    checkpoint = str(tmp_path)
    with pytest.raises(SourceError, match="cannot read the video"):
        predict(PredictOptions(checkpoint=checkpoint, input=str(tmp_path / "none.mp4")))
    with pytest.raises(SourceError, match="has 5 frames; the model reads 8"):
        predict(PredictOptions(checkpoint=checkpoint, input=percepts[0].records()[3].uri))
    with pytest.raises(ConfigError, match="names no Moving MNIST sequence"):
        predict(PredictOptions(checkpoint=checkpoint, input="moving-mnist:seven"))
    with pytest.raises(ConfigError, match=r"4096 values, .* gives 108"):
        predict(PredictOptions(checkpoint=checkpoint, input=percepts[0].uri))
    with pytest.raises(ConfigError, match="at least 1"):
        PredictOptions(checkpoint=checkpoint, input="moving-mnist:7", num_frames=0)
    save(tmp_path / "auto", dim=4096, decoders="autoencoder")
    with pytest.raises(ConfigError, match="predicts nothing"):
        predict(PredictOptions(checkpoint=str(tmp_path / "auto"), input="moving-mnist:7", num_frames=4))


def test_the_command_exits_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(partial(main, [str(tmp_path), "moving-mnist:7"]))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: there is no model file at")
    assert said.count("\n") == 1
