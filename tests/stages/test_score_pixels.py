"""Authorities: the generator and torch's losses, on the whole test set at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pipeline.core.arrays import write_array
from pipeline.core.errors import ConfigError, CorruptArtifact
from pipeline.core.files import read_json, sha256_bytes
from pipeline.core.stage import Context
from stages.datasets import moving_mnist
from stages.datasets.artifacts import Digits, Patches, PatchesManifest, write_digits
from stages.datasets.mnist import PARTS, DigitSet
from stages.datasets.patches import moments_of
from stages.evaluation import pixel_scoring
from stages.forecast import ScorePixelsConfig, score_pixels
from stages.models.artifacts import Encoder
from stages.models.composite import Composite
from stages.models.config import CompositeSpec, model_names
from stages.models.pretrained import Pretrained

NUM_TEST = 12


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_scoring, "PIECE", 5)
    monkeypatch.setattr("stages.evaluation.pixel_table.PIECE", 5)
    monkeypatch.setattr("stages.evaluation.pixel_table.NUM_MEAN_FRAME_SEQUENCES", 10)


@pytest.fixture
def digits(tmp_path: Path) -> Digits:
    rng = np.random.default_rng(0)
    parts = {part: rng.integers(0, 256, (6, 28, 28)).astype(np.uint8) for part in PARTS}
    write_digits(f"{tmp_path}/digits", {part: DigitSet(images, images[:, 0, 0]) for part, images in parts.items()})
    return Digits(f"{tmp_path}/digits")


@pytest.fixture
def patches(tmp_path: Path) -> Patches:
    rng = np.random.default_rng(0)
    for part in PARTS:
        pixels = rng.integers(0, 256, (7, 9, 32, 32, 3)).astype(np.uint8)
        write_array(f"{tmp_path}/patches/{part}.npy", pixels)
        if part == "train":
            moments = moments_of([pixels])
    Patches(f"{tmp_path}/patches").write(PatchesManifest(num_frames=0, parts={}, moments=moments))
    return Patches(f"{tmp_path}/patches")


def make(root: Path, name: str, **settings: object) -> tuple[Composite, Encoder]:
    config = CompositeSpec(**{"num_units": 6, "num_frames_in": 5, "num_frames_out": 4, **settings})  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = Composite(config).eval()
    Pretrained(model).save(f"{root}/{name}/model.safetensors")
    return model, Encoder(f"{root}/{name}")


@torch.no_grad()
def test_moving_mnist_scores(tmp_path: Path, digits: Digits) -> None:
    model, encoder = make(tmp_path, "composite", dim=4096, loss="bernoulli", predict_conditional=True)
    _, predictor = make(tmp_path, "future", dim=4096, loss="bernoulli", decoders="future")
    (Path(encoder.uri) / "manifest.json").write_text(json.dumps({"seconds": 7.5, "facts": {"num_sequences_seen": 99}}))
    found = score_pixels(
        ScorePixelsConfig(num_test_sequences=NUM_TEST),
        Context.for_test(tmp_path),
        encoders=(encoder, predictor),
        digits=digits,
    )
    scores = read_json(found.path("pixel_scores.json"))
    assert (scores["protocol"], scores["unit"]) == ("open loop", "nats/frame")
    row, other = scores["rows"]
    assert (row["model"], other["model"]) == ("composite, conditional future", "future predictor")
    assert (row["seconds"], row["num_sequences_seen"], other["seconds"]) == (7.5, 99, None)
    assert row["num_parameters"] == sum(p.numel() for p in model.parameters())

    frames = np.concatenate(
        list(moving_mnist.fixed_test_set(digits.load("test").images, num=NUM_TEST, num_frames=9)), axis=1
    )
    x = torch.from_numpy(frames.reshape(9, NUM_TEST, 4096).astype(np.float32) / 255)
    seen, future = x[:5], x[5:]
    prediction = model.open_loop_means(seen).prediction
    bce = torch.nn.functional.binary_cross_entropy
    assert row["cross_entropy"] == pytest.approx(4096 * bce(prediction, future).item(), rel=1e-5)
    assert row["mse"] == pytest.approx(((prediction - future) ** 2).sum(-1).mean().item(), rel=1e-5)
    images = prediction.reshape(-1, 64, 64).numpy(), future.reshape(-1, 64, 64).numpy()
    ssim = [structural_similarity(a, b, data_range=1.0) for a, b in zip(*images, strict=True)]
    assert row["ssim"] == pytest.approx(np.mean(ssim), rel=1e-5)
    reconstruction = model.open_loop_means(seen).reconstruction.flip(0)
    assert row["reconstruction_cross_entropy"] == pytest.approx(4096 * bce(reconstruction, seen).item(), rel=1e-5)
    forced = model.losses(model(seen, future), seen, future).prediction
    assert row["teacher_forced_cross_entropy"] == pytest.approx(forced.item(), rel=1e-5)
    assert other["teacher_forced_cross_entropy"] is None
    assert other["reconstruction_cross_entropy"] is None
    assert row["cross_entropy_low"] < row["cross_entropy"] < row["cross_entropy_high"]
    assert np.mean(row["cross_entropy_by_frame"]) == pytest.approx(row["cross_entropy"])

    copied, mean, inputs = scores["baselines"]
    assert [each["model"] for each in scores["baselines"]] == list(pixel_scoring.BASELINES)
    assert copied["mse"] == pytest.approx(((seen[-1] - future) ** 2).sum(-1).mean().item(), rel=1e-5)
    softened = [
        4096 * bce((e + (1 - 2 * e) * seen[-1]).expand_as(future), future).item() for e in pixel_scoring.SOFTENINGS
    ]
    assert copied["cross_entropy"] == pytest.approx(min(softened), rel=1e-4)
    assert inputs["mse"] == pytest.approx(((seen.mean(0) - future) ** 2).sum(-1).mean().item(), rel=1e-5)
    training = moving_mnist.sequences(digits.load("train").images, seed=0, first=0, num=10, num_frames=9)
    assert mean["mse"] == pytest.approx(((training.mean((0, 1)) - future.numpy()) ** 2).sum(-1).mean(), rel=1e-4)


@torch.no_grad()
def test_patch_scores(tmp_path: Path, patches: Patches) -> None:
    model, encoder = make(tmp_path, "composite", dim=3072)
    config = ScorePixelsConfig(num_test_sequences=10_000)
    found = score_pixels(config, Context.for_test(tmp_path), encoders=(encoder,), patches=patches)
    scores = read_json(found.path("pixel_scores.json"))
    assert (scores["unit"], scores["num_test_sequences"]) == ("squared error/frame", 7)
    x = torch.from_numpy(patches.moments().standardise(patches.map("test")))
    row = scores["rows"][0]
    expected = ((model.open_loop_means(x[:5]).prediction - x[5:]) ** 2).sum(-1).mean().item()
    assert row["squared_error"] == pytest.approx(expected, rel=1e-5)
    expected = ((model.open_loop_means(x[:5]).reconstruction.flip(0) - x[:5]) ** 2).sum(-1).mean().item()
    assert row["reconstruction_squared_error"] == pytest.approx(expected, rel=1e-5)
    copied = scores["baselines"][0]
    assert copied["squared_error"] == pytest.approx(((x[4] - x[5:]) ** 2).sum(-1).mean().item(), rel=1e-5)


def test_a_test_set_that_differs_from_its_record_is_refused(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoder = make(tmp_path, "c", dim=4096, num_frames_out=15, loss="bernoulli")
    images = digits.load("test").images
    monkeypatch.setattr(moving_mnist, "NUM_TEST_SEQUENCES", NUM_TEST)
    digest = moving_mnist.digest(moving_mnist.fixed_test_set(images, num=NUM_TEST, num_frames=20))
    config, context = ScorePixelsConfig(num_test_sequences=NUM_TEST), Context.for_test(tmp_path)
    monkeypatch.setattr(moving_mnist, "TEST_SET_SHA256", {sha256_bytes(images.tobytes()): digest})
    found = score_pixels(config, context, encoders=(encoder,), digits=digits)
    assert read_json(found.path("pixel_scores.json"))["test_set_is_recorded"]
    monkeypatch.setattr(moving_mnist, "TEST_SET_SHA256", {sha256_bytes(images.tobytes()): "0" * 64})
    with pytest.raises(CorruptArtifact, match="draws other sequences"):
        score_pixels(config, context, encoders=(encoder,), digits=digits)


def test_what_does_not_fit_is_refused(tmp_path: Path, digits: Digits, patches: Patches) -> None:
    _, encoder = make(tmp_path, "c", dim=4096)
    _, longer = make(tmp_path, "d", dim=4096, num_frames_out=9)
    config, context = ScorePixelsConfig(), Context.for_test(tmp_path)
    with pytest.raises(ConfigError, match="cannot be compared"):
        score_pixels(config, context, encoders=(encoder, longer), digits=digits)
    with pytest.raises(ConfigError, match="4096 values, the data have 3072"):
        score_pixels(config, context, encoders=(encoder,), patches=patches)
    with pytest.raises(ConfigError, match="cut longer ones"):
        score_pixels(config, context, encoders=(longer,), patches=patches)
    with pytest.raises(ConfigError, match="one kind of data"):
        score_pixels(config, context, encoders=(encoder,))


def test_models_of_one_name_are_told_apart() -> None:
    small, large = (CompositeSpec(dim=1, num_units=n) for n in (64, 128))
    assert model_names([small]) == ["composite"]
    assert model_names([small, large]) == ["composite, 1 x 64", "composite, 1 x 128"]
    assert model_names([small, small]) == ["composite, 1 x 64 (1)", "composite, 1 x 64 (2)"]
