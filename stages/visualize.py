"""visualize: pictures of what a pretrained model remembers and expects, for the report.

    gallery = visualize(VisualizeConfig(), context, encoder=encoder, percepts=percepts)

A model of percepts is shown through a linear read-out of small pictures (`stages.figures.percepts`), a model of pixels
as it is (`stages.figures.pixels`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import ConfigError
from pipeline.core.rates import VISUALIZE_S
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.artifacts import Digits, Patches
from stages.figures.gallery import Figure, Gallery, write_gallery
from stages.models.artifacts import Encoder
from stages.percepts.artifacts import Percepts

if TYPE_CHECKING:  # the libraries that draw are imported when a picture is drawn
    from stages.figures.canvas import Frames
    from stages.figures.pixels import Floats, PixelView
    from stages.models.composite import Composite
    from stages.models.pretrained import Pretrained


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """How many pictures, and of what."""

    num_examples: int = 4
    """Sequences that are shown; where videos have labels, of as many different ones."""
    fit_part: str | None = "unlabelled"
    """Part of the videos that the read-out from percepts to pictures is fitted on."""
    show_part: str | None = "test"
    """Part of the videos that examples come from. With both none, a fifth of the videos is kept to show."""
    thumbnail_px: int = 32
    """Side of the pictures that are read out of percepts."""
    num_readout_videos: int = 100
    """Videos that the read-out is fitted on, at most."""
    readout_frames_per_video: int = 16
    """Frames of each of them, at most."""
    num_future: int = 100
    """Frames that a model of pixels is followed into the future; 0 leaves those figures out."""
    num_units: int = 200
    """Random units whose gates and states are drawn meanwhile."""
    num_features: int = 200
    """Input and output features that are drawn, by norm; 0 leaves those figures out."""
    seed: int = 0
    """Of the choice of sequences and units, and of the untrained model beside the trained one."""

    def __post_init__(self) -> None:
        for name in ("num_examples", "thumbnail_px", "num_readout_videos", "readout_frames_per_video", "num_units"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_future < 0 or self.num_features < 0:
            raise ConfigError("num_future and num_features count pictures; 0 leaves them out, less is not possible")
        if (self.fit_part is None) != (self.show_part is None):
            raise ConfigError("fit_part and show_part go together: name two parts, or none of both")


@stage(version=1, estimate=lambda config, inputs: Estimate(seconds=VISUALIZE_S))
def visualize(
    config: VisualizeConfig,
    context: Context,
    *,
    encoder: Encoder,
    percepts: Percepts | None = None,
    digits: Digits | None = None,
    patches: Patches | None = None,
) -> Gallery:
    """Writes `gallery.json` and its pictures.

    One kind of data is needed, the one that the encoder was trained on: percepts, digits, or patches.

    Raises:
        ConfigError: none or several of them, or one whose frames have another size than the model's.
        SourceError: no video is long enough to be shown, or a part holds none.
    """
    from stages.models.pretrained import Pretrained

    pretrained = Pretrained.load(encoder.uri)
    model = pretrained.composite
    if percepts is not None and digits is None and patches is None:
        figures = _of_percepts(config, pretrained, percepts)
    elif digits is not None and percepts is None and patches is None:
        figures = _of_digits(config, model, digits)
    elif patches is not None and percepts is None and digits is None:
        figures = _of_patches(config, model, patches)
    else:
        raise ConfigError("visualize needs one kind of data: percepts, or digits, or patches")
    write_gallery(context.uri, figures)
    context.record(num_pictures=len(figures))
    context.progress(len(figures), len(figures), "pictures")
    return Gallery(context.uri, context.key)


def _of_percepts(config: VisualizeConfig, pretrained: Pretrained, percepts: Percepts) -> list[Figure]:
    from stages.datasets.sequences import hold_out
    from stages.figures.percepts import PerceptView, fit_view, percept_figures

    if pretrained.transform is None:
        raise ConfigError("the model was not trained on percepts: its file holds no transform")
    view = PerceptView.of(percepts, pretrained.transform, config.thumbnail_px)
    _check_dim(pretrained.composite, view.store.dim, "percepts")
    if config.fit_part is None:
        kept, out = (set(side) for side in hold_out(view.videos(None), portion=0.2, seed=config.seed))
        fitted, shown = ([r for r in view.videos(None) if r.sha256 in side] for side in (kept, out))
    else:
        fitted, shown = view.videos(config.fit_part), view.videos(config.show_part)
    readout = fit_view(
        view, fitted, num_videos=config.num_readout_videos, frames_per_video=config.readout_frames_per_video
    )
    return percept_figures(view, pretrained.composite, readout, shown, config.num_examples)


def _of_digits(config: VisualizeConfig, model: Composite, digits: Digits) -> list[Figure]:
    import numpy as np

    from stages.datasets import moving_mnist
    from stages.figures.pixels import PixelView, sequence_figures

    _check_dim(model, moving_mnist.NUM_PIXELS, "Moving MNIST frames")
    images = digits.load("test").images
    num_in, num_out = model.config.num_frames_in, model.config.num_frames_out if model.config.predicts else 0

    def moving(num: int, num_digits: int, num_frames: int) -> Floats:
        return moving_mnist.sequences(
            images, seed=config.seed, stream="test", first=0, num=num, num_frames=num_frames, num_digits=num_digits
        )

    view = PixelView((moving_mnist.FRAME_PX, moving_mnist.FRAME_PX, 1), _grey)
    num_frames = num_in + num_out
    titles = [f"test sequence {n + 1}" for n in range(config.num_examples)]
    figures = sequence_figures(view, model, moving(config.num_examples, 2, num_frames), titles, "sequences")
    unseen = np.concatenate([moving(1, 1, num_frames), moving(1, 3, num_frames)], axis=1)
    figures += [
        dataclasses.replace(figure, title=f"One digit, and three: {figure.title[0].lower()}{figure.title[1:]}")
        for figure in sequence_figures(
            view, model, unseen, ["one digit (never in training)", "three digits (never in training)"], "unseen_counts"
        )
    ]
    return figures + _of_pixels(config, model, view, moving(1, 2, num_in + config.num_future))


def _of_patches(config: VisualizeConfig, model: Composite, patches: Patches) -> list[Figure]:
    import numpy as np

    from stages.datasets.patches import NUM_CHANNELS, PATCH_PX
    from stages.figures.pixels import PixelView, sequence_figures

    moments = patches.moments()
    view = PixelView((PATCH_PX, PATCH_PX, NUM_CHANNELS), moments.to_bytes)
    _check_dim(model, int(np.prod(view.shape)), "patches")
    num_frames = model.config.num_frames_in + (model.config.num_frames_out if model.config.predicts else 0)
    test = patches.map("test")
    if test.shape[1] < num_frames:
        raise ConfigError(f"patches have {test.shape[1]} frames, the model is shown with {num_frames}: cut longer ones")
    # Still patches teach nothing: those that move the most of an even choice are shown.
    rng = np.random.default_rng(config.seed)
    choice = np.sort(rng.choice(len(test), min(len(test), 50 * config.num_examples), replace=False))
    motion = np.abs(np.diff(test[choice].astype(np.int16), axis=1)).mean(axis=(1, 2, 3, 4))
    shown = choice[np.sort(np.argsort(-motion, kind="stable")[: config.num_examples])]
    x_TBD = moments.standardise(test[shown, :num_frames])
    titles = [f"patch {n} of the test videos" for n in shown]
    figures = sequence_figures(view, model, x_TBD, titles, "sequences")
    return figures + _of_pixels(config, model, view, x_TBD[:, :1])


def _of_pixels(config: VisualizeConfig, model: Composite, view: PixelView, x_TBD: Floats) -> list[Figure]:
    import torch

    from stages.figures.pixels import far_future_figures, feature_figures
    from stages.models.composite import Composite

    figures: list[Figure] = []
    if config.num_future and model.config.predicts:
        untrained = Composite(model.config).eval()
        untrained.reset_parameters(torch.Generator().manual_seed(config.seed))
        figures += far_future_figures(
            view,
            {"trained": model, "untrained": untrained},
            x_TBD,
            num_steps=config.num_future,
            num_units=config.num_units,
            seed=config.seed,
        )
    if config.num_features:
        figures += feature_figures(view, model, config.num_features)
    return figures


def _grey(x_TBD: Floats) -> Frames:
    from stages.datasets import moving_mnist
    from stages.figures.canvas import to_rgb

    side = moving_mnist.FRAME_PX
    return to_rgb(x_TBD.reshape(-1, side, side)).reshape(*x_TBD.shape[:2], side, side, 3)


def _check_dim(model: Composite, dim: int, what: str) -> None:
    if model.config.dim != dim:
        raise ConfigError(
            f"the model reads frames of {model.config.dim} values, the {what} have {dim}: connect its own"
        )
