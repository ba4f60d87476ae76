"""Figures of a pretrained model: of percepts, Moving MNIST or patches; the work of stage `visualize`."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
import torch

from pipeline.core.errors import ConfigError, SourceError
from stages.datasets import moving_mnist
from stages.datasets.artifacts import Digits, Patches
from stages.datasets.patches import NUM_CHANNELS, PATCH_PX
from stages.datasets.sequences import hold_out_groups
from stages.figures.canvas import Frames, to_rgb
from stages.figures.config import VisualizeConfig
from stages.figures.gallery import Figure
from stages.figures.percepts import ChosenVideos, PerceptView, fit_view, percept_figures
from stages.figures.pixels import Floats, PixelView, far_future_figures, feature_figures, sequence_figures
from stages.models.composite import Composite
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts

DELETED: Final = "clips of links were deleted once their percepts were made, and --keep-videos keeps them"
"""The reason for which nothing is drawn of a download that kept no videos."""


def figures_of_percepts(
    config: VisualizeConfig, pretrained: Pretrained, percepts: Percepts
) -> tuple[list[Figure], list[str], str]:
    """Draws sequences of percepts, read out as pictures.

    Also returns the reasons of videos that could not be read, and why there is no figure: too few videos to fit on,
    none to show, or none that is long enough.

    Raises:
        ConfigError: the model was not trained on percepts, or on percepts of another dimension.
    """
    if pretrained.transform is None:
        raise ConfigError("the model was not trained on percepts: its file holds no transform")
    view = PerceptView.of(percepts, pretrained.transform, config.thumbnail_px)
    _check_dim(pretrained.composite, view.store.dim, "percepts")
    try:
        fitted, shown = _fitted_and_shown(config, view)
        readout = fit_view(
            view, fitted, num_videos=config.num_readout_videos, frames_per_video=config.readout_frames_per_video
        )
        return percept_figures(view, pretrained.composite, readout, shown, config.num_examples), view.unseen, ""
    except (SourceError, ConfigError) as error:  # the model is trained: what cannot be shown of it ends nothing
        return [], view.unseen, DELETED if view.deleted and not view.unseen else str(error)


def _fitted_and_shown(config: VisualizeConfig, view: PerceptView) -> tuple[ChosenVideos, ChosenVideos]:
    if config.fit_part is not None:
        return view.videos(config.fit_part), view.videos(config.show_part)
    videos = view.videos(None)
    if len(videos) < 3:
        raise SourceError(f"there are {len(videos)} videos, and 3 are needed: 2 to fit on and one to show")
    is_out_N = hold_out_groups((record.group or record.sha256 for record in videos), portion=0.2, seed=config.seed)
    return videos.only(~is_out_N), videos.only(is_out_N)


def figures_of_digits(config: VisualizeConfig, model: Composite, digits: Digits) -> list[Figure]:
    """Draws Moving MNIST sequences of two digits and of unseen counts, the far future, and features.

    Raises:
        ConfigError: the model reads frames of another size.
    """
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


def figures_of_patches(config: VisualizeConfig, model: Composite, patches: Patches) -> list[Figure]:
    """Draws test patches that move, the far future, and features.

    Raises:
        ConfigError: the model reads frames of another size, or the patches have too few frames.
    """
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
    side = moving_mnist.FRAME_PX
    return to_rgb(x_TBD.reshape(-1, side, side)).reshape(*x_TBD.shape[:2], side, side, 3)


def _check_dim(model: Composite, dim: int, what: str) -> None:
    if model.config.dim != dim:
        raise ConfigError(
            f"the model reads frames of {model.config.dim} values, the {what} have {dim}: connect its own"
        )
