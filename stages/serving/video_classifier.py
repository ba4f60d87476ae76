"""A finetuned classifier that takes videos: decode, percepts by the extractor of its training, windows, actions.

    classifier = VideoClassifier(TrainedClassifiers.load("finetune-<key>/model.safetensors"))
    answer = classifier("clip.mp4")
    answer.action, answer.probability

The protocol is that of `evaluate` (section 4.2): windows of as many frames as in training, every eight frames, none
across a gap; a window's probabilities are the mean over its frames, the video's the mean over its windows.

Shapes: W windows, T frames of a window, D percept dimension, C classes.
"""

from os import PathLike
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.core.errors import ConfigError
from stages.extraction.single_video import VideoExtractor, VideoPercepts
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.percepts.schema import Extractor
from stages.percepts.windows import clip_rows
from stages.serving.video_answer import VideoAnswer

STRIDE_FRAMES: Final = 8
BATCH_WINDOWS: Final = 128


class VideoClassifier:
    """One classifier and its extractor, loaded once."""

    def __init__(self, trained: TrainedClassifiers, *, weights: str | None = None) -> None:
        """Loads the extractor of the classifier's training.

        weights: URI of the convnet's weights, where they are not those of a package.

        Raises:
            ConfigError: as `check_single`.
            ConfigError, DigestError: the extractor cannot be built here (`stages.extraction.single_video.convnet_of`).
        """
        self.trained = trained
        self._extractor = VideoExtractor(check_single(trained), weights=weights)

    def __call__(self, path: str | PathLike[str]) -> VideoAnswer:
        """Returns the answer for a local video file.

        Raises:
            SourceError: nothing of it can be decoded.
        """
        return answer_of(self.trained, self._extractor(path))


def answer_of(trained: TrainedClassifiers, seen: VideoPercepts) -> VideoAnswer:
    """Returns the answer of one classifier for the percepts of a video, on the device of the classifier."""
    rows_WT = windows_of(trained, seen)
    steps_us = np.diff(seen.pts_us_N)
    frame_us = int(np.median(steps_us)) if len(steps_us) else 0
    return VideoAnswer(
        trained.class_names,
        probabilities_of(trained, seen, rows_WT),
        seen.pts_us_N[rows_WT[:, 0]],
        seen.pts_us_N[rows_WT[:, -1]] + frame_us,
    )


def windows_of(trained: TrainedClassifiers, seen: VideoPercepts) -> npt.NDArray[np.int64]:
    """Returns the rows (W, T) of the percepts that each window of a video reads."""
    return clip_rows(seen.segment_N, trained.num_frames, STRIDE_FRAMES)


def probabilities_of(
    trained: TrainedClassifiers, seen: VideoPercepts, rows_WT: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Computes the probabilities (W, C) of windows of a video."""
    pieces = [rows_WT[first : first + BATCH_WINDOWS] for first in range(0, len(rows_WT), BATCH_WINDOWS)]
    probabilities = torch.cat([_probabilities(trained, seen.percepts_ND[rows]) for rows in pieces])
    probabilities_WC: npt.NDArray[np.float32] = probabilities.cpu().numpy()
    return probabilities_WC


def _probabilities(trained: TrainedClassifiers, percepts_WTD: npt.NDArray[np.float16]) -> torch.Tensor:
    device = next(trained.classifier.parameters()).device
    x_TWD = trained.transform(torch.from_numpy(percepts_WTD).to(device)).transpose(0, 1).contiguous()
    return trained.probabilities(x_TWD)[0]


def check_single(trained: TrainedClassifiers) -> Extractor:
    """Returns the extractor of what a classifier learned from.

    Raises:
        ConfigError: the file holds several classifiers, or does not say what made the percepts it learned from.
    """
    if len(trained.samplings) != 1:
        raise ConfigError(f"the file holds {len(trained.samplings)} classifiers: give model.safetensors")
    if trained.extractor is None:
        raise ConfigError("this classifier does not say what made the percepts it learned from: finetune it again")
    return trained.extractor
