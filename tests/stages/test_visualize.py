"""visualize, end to end on small real clips and small models. Authorities: Pillow, PyAV, the models themselves."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.disk_list import DiskList
from pipeline.core.errors import ConfigError
from pipeline.core.files import list_files, read_bytes, read_json
from pipeline.core.stage import Context
from stages.datasets.artifacts import Digits, write_digits
from stages.datasets.mnist import PARTS, DigitSet
from stages.figures.config import VisualizeConfig
from stages.figures.gallery import Gallery
from stages.figures.percepts import PerceptView, fit_view, remembered_and_expected
from stages.figures.thumbnails import one_a_label, thumbnails
from stages.models.artifacts import Encoder
from stages.models.composite import Composite
from stages.models.config import CompositeSpec
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation
from stages.visualize import visualize
from tests.stages.made_clips import frames_of, make_index, make_percepts

CONFIG = VisualizeConfig(num_examples=2, thumbnail_px=12, num_future=12, num_units=5, num_features=6)


@pytest.fixture(scope="module")
def percepts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Percepts, Statistics]:
    root = tmp_path_factory.mktemp("clips")
    return make_percepts(root, make_index(root, (9, 10, 11, 6, 9, 9, 12, 9)))


def save(root: Path, standardisation: Standardisation | None = None, **settings: object) -> Encoder:
    config = CompositeSpec(**{"num_units": 7, "num_frames_in": 4, "num_frames_out": 3, **settings})  # type: ignore[arg-type]
    torch.manual_seed(0)
    Pretrained(Composite(config), standardisation).save(f"{root}/model.safetensors")
    return Encoder(str(root))


def pictures(gallery: Gallery) -> dict[str, Image.Image]:
    entries = read_json(gallery.path("gallery.json"))
    assert sorted([entry["file"] for entry in entries] + ["gallery.json"]) == list_files(gallery.uri)
    found = {}
    for entry in entries:
        assert entry["title"]
        image = Image.open(io.BytesIO(read_bytes(gallery.path(entry["file"]))))
        assert (getattr(image, "n_frames", 1) > 1) == (entry["kind"] == "animation")
        found[entry["file"]] = image
    return found


def test_percepts_are_shown_as_pictures(percepts: tuple[Percepts, Statistics], tmp_path: Path) -> None:
    standardisation = Standardisation.of(percepts[1].moments())
    encoder = save(tmp_path, standardisation, dim=108)
    gallery = visualize(CONFIG, Context.for_test(tmp_path / "a"), encoder=encoder, percepts=percepts[0])
    found = pictures(gallery)
    assert sorted(found) == ["motion.gif", "strip.png"]
    assert found["motion.gif"].n_frames == 7
    again = visualize(CONFIG, Context.for_test(tmp_path / "b"), encoder=encoder, percepts=percepts[0])
    for name in list_files(gallery.uri):
        assert read_bytes(gallery.path(name)) == read_bytes(again.path(name))


@pytest.mark.parametrize("decoders", ["autoencoder", "future"])
def test_half_a_composite_is_shown_too(percepts: tuple[Percepts, Statistics], tmp_path: Path, decoders: str) -> None:
    encoder = save(tmp_path, Standardisation.of(percepts[1].moments()), dim=108, decoders=decoders)
    found = pictures(visualize(CONFIG, Context.for_test(tmp_path), encoder=encoder, percepts=percepts[0]))
    assert found["motion.gif"].n_frames == (4 if decoders == "autoencoder" else 7)


def test_videos_without_parts_are_divided(percepts: tuple[Percepts, Statistics], tmp_path: Path) -> None:
    config = VisualizeConfig(num_examples=9, thumbnail_px=12, fit_part=None, show_part=None)
    encoder = save(tmp_path, Standardisation.of(percepts[1].moments()), dim=108)
    assert pictures(visualize(config, Context.for_test(tmp_path), encoder=encoder, percepts=percepts[0]))


def test_thumbnails_are_the_frames_of_the_video(percepts: tuple[Percepts, Statistics]) -> None:
    store = percepts[0].open()
    record = percepts[0].records()[4]
    found = thumbnails(record, store.extractor, [6, 1, 8], 12)
    expected = frames_of(4, 9)[[1, 6, 8]].reshape(3, 12, 4, 12, 4, 3).mean((2, 4))
    assert np.abs(found - expected).mean() < 6


def test_the_read_out_sees_the_square(percepts: tuple[Percepts, Statistics]) -> None:
    view = PerceptView.of(percepts[0], Standardisation.of(percepts[1].moments()), 6)
    readout = fit_view(view, view.videos(None), num_videos=100, frames_per_video=16)
    # The percepts are these very pictures; but colours of two clips that it has never seen it can only guess at.
    assert readout.error < 0.5


def test_what_is_remembered_runs_forwards() -> None:
    torch.manual_seed(0)
    model = Composite(CompositeSpec(dim=5, num_units=6, num_frames_in=4, num_frames_out=3)).eval()
    x_TBD = np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32)
    found = remembered_and_expected(model, x_TBD, 3)
    outputs = model(torch.from_numpy(x_TBD), torch.zeros(3, 2, 5))
    np.testing.assert_allclose(found[:4], outputs.reconstruction.flip(0).detach(), rtol=1e-5)
    np.testing.assert_allclose(found[4:], outputs.prediction.detach(), rtol=1e-5)


def test_labels_take_turns(percepts: tuple[Percepts, Statistics]) -> None:
    labels = [record.label for record in one_a_label(percepts[0].records())][:5]
    assert labels == ["a", "b", "a", "b", "a"]


@pytest.fixture
def digits(tmp_path: Path) -> Digits:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 28, 28)).astype(np.uint8)
    write_digits(f"{tmp_path}/digits", {part: DigitSet(images, images[:, 0, 0]) for part in PARTS})
    return Digits(f"{tmp_path}/digits")


@pytest.mark.parametrize("decoders", ["composite", "future", "autoencoder"])
def test_models_of_moving_mnist_get_the_paper_s_figures(tmp_path: Path, digits: Digits, decoders: str) -> None:
    encoder = save(tmp_path, dim=4096, loss="bernoulli", decoders=decoders, num_layers=2)
    found = pictures(visualize(CONFIG, Context.for_test(tmp_path), encoder=encoder, digits=digits))
    names = {"sequences.png", "sequences.gif", "unseen_counts.png", "unseen_counts.gif"}
    names |= {f"features_{gate}.png" for gate in ("input_gate", "forget_gate", "cell_input", "output_gate")}
    names |= {"features_reconstruction.png"} if decoders != "future" else set()
    if decoders != "autoencoder":
        names |= {"features_prediction.png", "far_future.png", "far_future.gif", "traces.png"}
        assert found["far_future.gif"].n_frames == 4 + 12
    assert set(found) == names


def test_frames_of_another_size_are_refused(
    percepts: tuple[Percepts, Statistics], digits: Digits, tmp_path: Path
) -> None:
    encoder = save(tmp_path, Standardisation.of(percepts[1].moments()), dim=108)
    context = Context.for_test(tmp_path)
    with pytest.raises(ConfigError, match="108 values, the Moving MNIST frames have 4096"):
        visualize(CONFIG, context, encoder=encoder, digits=digits)
    with pytest.raises(ConfigError, match="one kind of data"):
        visualize(CONFIG, context, encoder=encoder, digits=digits, percepts=percepts[0])
    with pytest.raises(ConfigError, match="holds no transform"):
        visualize(CONFIG, context, encoder=save(tmp_path, dim=108), percepts=percepts[0])


def test_videos_that_cannot_be_shown_end_nothing(percepts: tuple[Percepts, Statistics], tmp_path: Path) -> None:
    """The model is trained by then: there are no pictures, and the reason is said."""
    standardisation = Standardisation.of(percepts[1].moments())
    of_20 = save(tmp_path / "of_20", standardisation, dim=108, num_frames_in=20)
    encoder = save(tmp_path, standardisation, dim=108)
    for number, (config, model, reason) in enumerate(
        [
            (CONFIG, of_20, "no video to show has 23 frames"),
            (VisualizeConfig(show_part="nowhere"), encoder, "part 'nowhere'; parts here: test, unlabelled"),
            (VisualizeConfig(num_readout_videos=1), encoder, "needs at least 2 videos to fit on; got 1"),
        ]
    ):
        context = Context.for_test(tmp_path / str(number))
        assert pictures(visualize(config, context, encoder=model, percepts=percepts[0])) == {}
        assert str(context.facts["left_out"]).startswith("nothing is drawn: ")
        assert reason in str(context.facts["left_out"])


@pytest.mark.parametrize("settings", [{"num_examples": 0}, {"num_future": -1}, {"fit_part": None}, {"thumbnail_px": 0}])
def test_settings_are_checked(settings: dict[str, int | None]) -> None:
    with pytest.raises(ConfigError):
        VisualizeConfig(**settings)  # type: ignore[arg-type]


def test_the_records_of_many_videos_lie_on_the_disk(percepts: tuple[Percepts, Statistics]) -> None:
    """Records of a million videos took 0.7 GB of memory, of which a few dozen are looked at."""
    view = PerceptView.of(percepts[0], Standardisation.of(percepts[1].moments()), 6)
    assert isinstance(view.records, DiskList)
    videos, expected = view.videos(None), percepts[0].records()
    assert list(videos) == expected
    assert list(videos[2:5]) == expected[2:5]
    is_chosen = np.arange(len(expected)) % 3 == 1
    assert [videos.only(is_chosen)[-1]] == expected[1::3][-1:]
