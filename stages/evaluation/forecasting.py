"""Squared errors of predicted percepts, frame by frame, open loop: the work of stage `forecast`.

Shapes: T frames, P frames ahead, B windows, D percept dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.datasets.dataset_factories import open_windows
from stages.evaluation.artifacts import BASELINES, COPY_LAST, MEAN_FRAME, ErrorRatio, ForecastErrors
from stages.evaluation.intervals import ratio_interval
from stages.models.artifacts import Encoder
from stages.models.config import CompositeConfig, model_names
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts
from stages.percepts.transforms import Standardisation

UNIT = "squared error per frame, standardised percepts"

Errors = dict[str, npt.NDArray[np.float64]]
"""Predictor -> squared errors summed over dimensions and windows, for each frame."""
Span = tuple[int, int]


@dataclass(frozen=True)
class Sums:
    """The squared errors of one batch of windows, summed over dimensions and windows."""

    ahead: Errors
    """Predictor -> (P,) errors of the frames ahead."""
    reconstruction: Errors
    """Predictor -> (T,) errors of the input frames, in the order of the input."""
    of_windows: Errors
    """Predictor -> (B,) errors of the frames ahead, summed over dimensions and frames."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Builds, in a worker, the function that measures windows first ... end - 1."""

    encoders: Mapping[str, Encoder]
    """Encoders by the name of the model."""
    percepts: Percepts
    parts: tuple[str, ...]
    standardise: Standardisation
    num_frames_in: int
    num_frames_ahead: int
    stride: int
    device: str

    def __call__(self) -> Callable[[Span], Sums]:
        loaded = {name: Pretrained.load(encoder.uri, device=self.device) for name, encoder in self.encoders.items()}
        num_frames = self.num_frames_in + self.num_frames_ahead
        windows = open_windows(self.percepts.open(parts=self.parts), num_frames, self.stride)

        def measure(span: Span) -> Sums:
            percepts_TBD = torch.from_numpy(windows.gather(np.arange(*span))).to(self.device)
            return errors_of(loaded, self.standardise, percepts_TBD, self.num_frames_in)

        return measure


def predictor_names(configs: Sequence[CompositeConfig]) -> list[str]:
    """Returns the models' names among the predictors: the paper's names, with the word LSTM."""
    parts = [name.partition(",") for name in model_names(configs)]
    return [f"{head.removesuffix(' predictor')} LSTM{comma}{rest}" for head, comma, rest in parts]


@torch.no_grad()
def errors_of(
    models: Mapping[str, Pretrained], standardise: Standardisation, percepts_TBD: Tensor, num_frames_in: int
) -> Sums:
    """Computes errors over windows of percepts: frames to encode, and the true frames after them.

    Errors are those of standardised percepts whatever a model reads, so that models can be compared.
    """
    standard_TBD = standardise(percepts_TBD)
    past_TBD, future_PBD = standard_TBD[:num_frames_in], standard_TBD[num_frames_in:]
    sums = Sums({}, {}, {})

    def add_ahead(name: str, predicted_PBD: Tensor) -> None:
        squares_PBD = _squares(predicted_PBD, future_PBD)
        sums.ahead[name] = squares_PBD.sum((1, 2)).cpu().numpy()
        sums.of_windows[name] = squares_PBD.sum((0, 2)).cpu().numpy()

    for name, pretrained in models.items():
        model, alike = pretrained.composite, pretrained.transform in (None, standardise)
        read_TBD = past_TBD if alike else pretrained.standardise(percepts_TBD[:num_frames_in])
        to_standard = (lambda frames: frames) if alike else partial(_to_standard, pretrained, standardise)
        reconstruction_TBD, prediction_PBD = model.open_loop_means(read_TBD, len(future_PBD))
        if prediction_PBD is not None:
            add_ahead(name, to_standard(prediction_PBD))
        if reconstruction_TBD is not None:
            squares_TBD = _squares(to_standard(reconstruction_TBD.flip(0)), past_TBD)
            sums.reconstruction[name] = squares_TBD.sum((1, 2)).cpu().numpy()
    add_ahead(COPY_LAST, past_TBD[-1:].expand_as(future_PBD))
    add_ahead(MEAN_FRAME, torch.zeros_like(future_PBD))
    sums.reconstruction[MEAN_FRAME] = _squares(torch.zeros_like(past_TBD), past_TBD).sum((1, 2)).cpu().numpy()
    return sums


def _to_standard(pretrained: Pretrained, standardise: Standardisation, frames: Tensor) -> Tensor:
    """Converts frames of the model's output to standardised percepts."""
    return standardise(torch.from_numpy(pretrained.in_units(frames.cpu().numpy())).to(frames.device))


def _squares(predicted_TBD: Tensor, true_TBD: Tensor) -> Tensor:
    """Computes squared errors, float64."""
    return (predicted_TBD.double() - true_TBD.double()).square()


def total_errors(parts: list[Sums], *, group_N: npt.NDArray[np.int64], num_videos: int, dim: int) -> ForecastErrors:
    """Adds up the errors of all parts, takes their means over N windows, and compares models with baselines.

    group_N: the number of each window's group of videos, from 0 on.
    """
    num_windows = len(group_N)
    ahead = _mean([sums.ahead for sums in parts], num_windows)
    rebuilt = _mean([sums.reconstruction for sums in parts], num_windows)
    return ForecastErrors(
        unit=UNIT,
        num_windows=num_windows,
        num_videos=num_videos,
        num_dims=dim,
        frames_ahead=tuple(range(1, len(next(iter(ahead.values()))) + 1)),
        predictors={name: tuple(errors.tolist()) for name, errors in ahead.items()},
        means={name: float(errors.mean()) for name, errors in ahead.items()},
        reconstruction={name: float(errors.mean()) for name, errors in rebuilt.items()},
        num_groups=int(group_N.max()) + 1,
        ratios=tuple(_ratios(parts, group_N)),
    )


def _ratios(parts: list[Sums], group_N: npt.NDArray[np.int64]) -> Iterator[ErrorRatio]:
    error_N = {name: np.concatenate([sums.of_windows[name] for sums in parts]) for name in parts[0].of_windows}
    for model in (name for name in error_N if name not in BASELINES):
        for baseline in BASELINES:
            if interval := ratio_interval(error_N[model], error_N[baseline], group_N):
                low, high = (interval.low, interval.high) if math.isfinite(interval.low) else (None, None)
                yield ErrorRatio(model=model, baseline=baseline, ratio=interval.mean, low=low, high=high)


def no_errors(*, dim: int) -> ForecastErrors:
    """Returns the errors of no window at all."""
    return ForecastErrors(
        unit=UNIT, num_windows=0, num_dims=dim, frames_ahead=(), predictors={}, means={}, reconstruction={}
    )


def _mean(parts: list[Errors], num_windows: int) -> Errors:
    return {name: np.sum([part[name] for part in parts], axis=0) / num_windows for name in parts[0]}
