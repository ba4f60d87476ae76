"""Forecasting: how well pretrained models foretell percepts of videos they have never seen, open loop, frame by frame.

Beside them two predictors that know nothing of motion: the last frame seen, for ever, and the mean frame of the corpus,
which is zero after standardisation. Writes `forecast.json`.

Shapes: T frames, P frames ahead, B windows, D percept dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from pipeline.core.rates import FORECAST_S
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.dataset_factories import open_windows
from stages.evaluation.artifacts import COPY_LAST, MEAN_FRAME, Forecast, ForecastErrors
from stages.models.artifacts import Encoder
from stages.models.config import CompositeConfig
from stages.models.names import model_names
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation, raw

UNIT = "squared error per frame, standardised percepts"
WINDOWS_AN_ITEM = 128

Errors = dict[str, npt.NDArray[np.float64]]
"""Predictor -> squared errors summed over dimensions and windows, for each frame."""
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """What is foretold."""

    parts: tuple[str, ...] = ("test",)
    """Parts of the videos' split to measure on; none that a model has learned from."""
    window_stride: int = 8
    """A window of frames begins every so many frames of a video."""
    num_frames_ahead: int | None = None
    """Frames to foretell; default: as many as the models were trained for."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts is empty; name the parts to measure on, such as test")
        if self.window_stride < 1:
            raise ConfigError(f"window_stride is {self.window_stride}; it must be at least 1")
        if self.num_frames_ahead is not None and self.num_frames_ahead < 1:
            raise ConfigError(f"num_frames_ahead is {self.num_frames_ahead}; it must be at least 1")


@dataclass(frozen=True)
class Sums:
    """What one batch of windows adds."""

    ahead: Errors
    """(P,) each."""
    reconstruction: Errors
    """(T,) each, in the order of the input."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Builds, in a worker, the function that measures windows first ... end - 1."""

    encoders: Mapping[str, Encoder]
    """By the name of the model."""
    percepts: Percepts
    parts: tuple[str, ...]
    standardise: Standardisation
    num_frames_in: int
    num_frames_ahead: int
    stride: int
    device: str

    def __call__(self) -> Callable[[Span], Sums]:
        loaded = {name: Pretrained.load(found.uri, device=self.device) for name, found in self.encoders.items()}
        num_frames = self.num_frames_in + self.num_frames_ahead
        windows = open_windows(self.percepts.open(parts=self.parts), num_frames, self.stride).windows

        def measure(span: Span) -> Sums:
            percepts_TBD = torch.from_numpy(windows.gather(np.arange(*span))).to(self.device)
            return errors_of(loaded, self.standardise, percepts_TBD, self.num_frames_in)

        return measure


def predictor_names(configs: Sequence[CompositeConfig]) -> list[str]:
    """The models' names among the predictors: the paper's, saying that they are LSTMs."""
    parts = [name.partition(",") for name in model_names(configs)]
    return [f"{head.removesuffix(' predictor')} LSTM{comma}{rest}" for head, comma, rest in parts]


@torch.no_grad()
def errors_of(
    models: Mapping[str, Pretrained], standardise: Standardisation, percepts_TBD: Tensor, num_frames_in: int
) -> Sums:
    """Errors over windows of percepts: frames to encode, and the true frames after them.

    They are those of standardised percepts whatever a model reads, so that models can be compared.
    """
    standard_TBD = standardise(percepts_TBD)
    past_TBD, future_PBD = standard_TBD[:num_frames_in], standard_TBD[num_frames_in:]
    sums = Sums({}, {})
    for name, pretrained in models.items():
        model, alike = pretrained.composite, pretrained.transform in (None, standardise)
        read_TBD = past_TBD if alike else pretrained.standardise(percepts_TBD[:num_frames_in])
        to_standard = (lambda frames: frames) if alike else partial(_to_standard, pretrained, standardise)
        reconstruction_TBD, prediction_PBD = model.open_loop(read_TBD, len(future_PBD))
        if prediction_PBD is not None:
            sums.ahead[name] = _squared_errors(to_standard(prediction_PBD), future_PBD)
        if reconstruction_TBD is not None:
            sums.reconstruction[name] = _squared_errors(to_standard(reconstruction_TBD.flip(0)), past_TBD)
    sums.ahead[COPY_LAST] = _squared_errors(past_TBD[-1:].expand_as(future_PBD), future_PBD)
    sums.ahead[MEAN_FRAME] = _squared_errors(torch.zeros_like(future_PBD), future_PBD)
    sums.reconstruction[MEAN_FRAME] = _squared_errors(torch.zeros_like(past_TBD), past_TBD)
    return sums


def _to_standard(pretrained: Pretrained, standardise: Standardisation, frames: Tensor) -> Tensor:
    """Frames as the model writes them, as standardised percepts."""
    return standardise(torch.from_numpy(pretrained.in_units(frames.cpu().numpy())).to(frames.device))


def _squared_errors(found_TBD: Tensor, true_TBD: Tensor) -> npt.NDArray[np.float64]:
    """(T,), summed over windows and dimensions."""
    errors: npt.NDArray[np.float64] = (found_TBD.double() - true_TBD.double()).square().sum((1, 2)).cpu().numpy()
    return errors


@stage(version=2, estimate=lambda config, inputs: Estimate(seconds=FORECAST_S))
def forecast(
    config: ForecastConfig,
    context: Context,
    *,
    encoders: tuple[Encoder, ...],
    percepts: Percepts,
    statistics: Statistics,
) -> Forecast:
    """Measures the models on windows of `config.parts`; the same numbers for any number of workers.

    Raises:
        ConfigError: no model, one that was trained with other statistics, models that differ in the number of frames,
          or no video is as long as a window.
        SourceError: no video with frames is of `config.parts`.
    """
    loaded = [Pretrained.load(encoder.uri) for encoder in encoders]
    standardise = Standardisation.of(statistics.moments())
    others = [each.transform for each in loaded if isinstance(each.transform, Standardisation)]
    if any(each not in (standardise, raw(each.dim)) for each in others):
        raise ConfigError("the encoder was trained with other statistics: connect those that it was trained with")
    models = [each.composite.config for each in loaded]
    num_frames_in, num_frames_out = _lengths(models)
    measuring = Measuring(
        encoders=dict(zip(predictor_names(models), encoders, strict=True)),
        percepts=percepts,
        parts=config.parts,
        standardise=standardise,
        num_frames_in=num_frames_in,
        num_frames_ahead=config.num_frames_ahead or num_frames_out,
        stride=config.window_stride,
        device="cuda" if context.resources.gpus_per_worker else "cpu",
    )
    num_frames = num_frames_in + measuring.num_frames_ahead
    store = percepts.open(parts=config.parts)
    num_windows = len(open_windows(store, num_frames, config.window_stride).windows)
    found = _measure_all(measuring, num_windows, context)
    errors = _errors(found, num_windows=num_windows, num_videos=len(store.videos), dim=models[0].dim)
    artifact = Forecast(context.uri, context.key)
    artifact.write(errors)
    means = {f"{name} error": mean for name, mean in errors.means.items()}
    context.record(num_windows=num_windows, num_videos=len(store.videos), **means)
    return artifact


def _lengths(models: Sequence[CompositeConfig]) -> tuple[int, int]:
    """Frames in and out, which all models share; those of an autoencoder are not looked at for the latter."""
    if not models:
        raise ConfigError("forecast was given no encoder: connect one model, or more")
    lengths_in = {model.num_frames_in for model in models}
    lengths_out = {model.num_frames_out for model in models if model.predicts} or {models[0].num_frames_out}
    if len(lengths_in) > 1 or len(lengths_out) > 1:
        raise ConfigError(
            f"models of {sorted(lengths_in)} frames in and {sorted(lengths_out)} out cannot be compared on the same "
            "windows: pretrain them with the same num_frames_in and num_frames_out"
        )
    return lengths_in.pop(), lengths_out.pop()


def _measure_all(measuring: Measuring, num_windows: int, context: Context) -> list[Sums]:
    """Of every item, in their order, so that sums do not depend on which worker was faster."""
    spans = [(first, min(first + WINDOWS_AN_ITEM, num_windows)) for first in range(0, num_windows, WINDOWS_AN_ITEM)]
    results = context.workers.map(
        measuring,
        spans,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        gpus_per_worker=context.resources.gpus_per_worker,
        describe=lambda span: f"windows {span[0]} to {span[1] - 1}",
    )
    found: dict[int, Sums] = {}
    for position, sums in results:
        found[position] = sums
        context.progress(sum(spans[done][1] - spans[done][0] for done in found), num_windows, "windows")
    return [found[position] for position in range(len(spans))]


def _errors(parts: list[Sums], *, num_windows: int, num_videos: int, dim: int) -> ForecastErrors:
    """Adds up what the parts found."""
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
    )


def _mean(parts: list[Errors], num_windows: int) -> Errors:
    return {name: np.sum([part[name] for part in parts], axis=0) / num_windows for name in parts[0]}
