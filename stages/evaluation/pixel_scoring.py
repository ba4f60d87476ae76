"""Scores of models of pixels, piece by piece: the work of a worker of `score_pixels`.

Shapes: T frames, B sequences of a piece, D pixels (and channels) of a frame, S softenings.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.datasets import moving_mnist
from stages.datasets.artifacts import Digits, Patches
from stages.evaluation import metrics
from stages.evaluation.metrics import Frames, Values
from stages.models.artifacts import Encoder
from stages.models.composite import Composite

PIECE: Final = 100
"""Sequences that a worker scores at a time."""
BASELINES: Final = ("copy last frame", "mean frame", "mean of the input frames")
SOFTENINGS: Final = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
"""A copied frame is sure of every pixel, which costs very many nats where it is wrong. It is softened to
e + (1 - 2e) * pixel, and its cross-entropy is that of the e that is best on the test set itself: in its favour."""

Columns = dict[str, Values]
"""Measure -> a value for every sequence and frame, (B, T); `softened` (B, T, S).

error           of predictions: nats for digits, squared error of standardised pixels for patches
mse, ssim       of predictions, for digits
reconstruction  error of the input, reconstructed open loop
teacher_forced  error of predictions that were given the true frame before: only of conditional models
"""


@dataclass(frozen=True)
class PixelTask:
    """The inputs of every worker: the models, the data, and the frames to compare with. Pickles."""

    encoders: tuple[Encoder, ...]
    data: Digits | Patches
    num_test: int
    num_in: int
    num_out: int
    mean_frame_D: npt.NDArray[np.float32]
    device: str = "cpu"

    def __call__(self) -> "PixelScorer":
        """Loads models and data, in the worker."""
        return PixelScorer(self)

    @property
    def in_nats(self) -> bool:
        """True if errors are cross-entropies; false if they are squared errors."""
        return isinstance(self.data, Digits)


class PixelScorer:
    """Number of a piece's first sequence -> the columns of every model, then of every baseline."""

    def __init__(self, task: PixelTask) -> None:
        self._task = task
        self._models = [encoder.load(device=task.device) for encoder in task.encoders]
        self._data = task.data.load("test").images if isinstance(task.data, Digits) else task.data.map("test")

    def __call__(self, first: int) -> list[Columns]:
        task = self._task
        x_TBD = self._read(first, min(PIECE, task.num_test - first))
        seen_TBD, future_TBD = x_TBD[: task.num_in], x_TBD[task.num_in :]
        stays = (seen_TBD[-1], np.broadcast_to(task.mean_frame_D, seen_TBD[-1].shape), seen_TBD.mean(0))
        assert len(stays) == len(BASELINES)
        models = [self._of_model(model, seen_TBD, future_TBD) for model in self._models]
        return models + [self._of_frame(frame_BD, future_TBD) for frame_BD in stays]

    def _read(self, first: int, num: int) -> Frames:
        task = self._task
        num_frames = task.num_in + task.num_out
        if isinstance(task.data, Digits):
            return moving_mnist.fixed_test_sequences(self._data, first=first, num=num, num_frames=num_frames)
        return task.data.moments().standardise(self._data[first : first + num, :num_frames])

    @torch.no_grad()
    def _of_model(self, model: Composite, seen_TBD: Frames, future_TBD: Frames) -> Columns:
        seen, future = (torch.from_numpy(part).to(self._task.device) for part in (seen_TBD, future_TBD))
        reconstruction, prediction = model.open_loop(seen, len(future))
        columns: Columns = {}
        if prediction is not None:
            columns |= self._of_prediction(model.means(prediction).cpu().numpy(), future_TBD)
            columns["error"] = self._error_of_output(prediction, future_TBD)
        if reconstruction is not None:
            columns["reconstruction"] = self._error_of_output(reconstruction.flip(0), seen_TBD)
        if model.config.predict_conditional:
            columns["teacher_forced"] = self._error_of_output(model(seen, future).prediction, future_TBD)
        return columns

    def _error_of_output(self, output_TBD: Tensor, target_TBD: Frames) -> Values:
        """Computes errors from a model's outputs, logits of digits or standardised pixels of patches: (B, T)."""
        output = output_TBD.cpu().numpy()
        if not self._task.in_nats:
            return metrics.squared_error_per_frame(output, target_TBD).T
        return metrics.cross_entropy_of_logits_per_frame(output, target_TBD).T

    def _of_frame(self, frame_BD: Frames, future_TBD: Frames) -> Columns:
        columns = self._of_prediction(np.broadcast_to(frame_BD, future_TBD.shape), future_TBD)
        columns["error"] = self._error(np.broadcast_to(frame_BD, future_TBD.shape), future_TBD)
        if self._task.in_nats:
            # Instead of the plain error, in which a single pixel may cost 100 nats.
            soft = [(e + (1 - 2 * e) * frame_BD[None]).astype(np.float32) for e in SOFTENINGS]
            columns["softened"] = np.stack([self._error(each, future_TBD) for each in soft], axis=-1)
        return columns

    def _of_prediction(self, mean_TBD: Frames, target_TBD: Frames) -> Columns:
        columns: Columns = {}
        if self._task.in_nats:
            images = (-1, moving_mnist.FRAME_PX, moving_mnist.FRAME_PX)
            columns["mse"] = metrics.squared_error_per_frame(mean_TBD, target_TBD).T
            ssim = metrics.ssim_per_frame(mean_TBD.reshape(images), target_TBD.reshape(images))
            columns["ssim"] = ssim.reshape(mean_TBD.shape[:2]).T
        return columns

    def _error(self, mean_TBD: Frames, target_TBD: Frames) -> Values:
        measure = metrics.cross_entropy_per_frame if self._task.in_nats else metrics.squared_error_per_frame
        return measure(mean_TBD, target_TBD).T
