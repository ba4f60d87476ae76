"""Forecasting: how well a pretrained model foretells percepts of videos it has never seen, open loop, frame by frame.

Beside it two predictors that know nothing of motion: the last frame seen, for ever, and the mean frame of the corpus,
which is zero after standardisation. Writes `forecast.json`.

Shapes: T frames, P frames ahead, B windows, D percept dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.files import join, read_json, write_json
from pipeline.stage import Artifact, Context, stage
from stages.datasets.opening import open_windows
from stages.models.artifacts import Encoder
from stages.models.composite import Composite
from stages.models.pretrained import Pretrained
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.standardisation import Standardisation

FORECAST_FILE = "forecast.json"
UNIT = "squared error per frame, standardised percepts"
COPY_LAST, MEAN_FRAME = "copy last frame", "mean frame"
WINDOWS_AN_ITEM = 128

Errors = dict[str, npt.NDArray[np.float64]]
"""Predictor -> squared errors summed over dimensions and windows, for each frame."""
Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """What is foretold."""

    parts: tuple[str, ...] = ("test",)
    """Parts of the videos' split to measure on; none that the model has learned from."""
    window_stride: int = 8
    """A window of frames begins every so many frames of a video."""
    num_frames_ahead: int | None = None
    """Frames to foretell; default: as many as the model was trained for."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts is empty; name the parts to measure on, such as test")
        if self.window_stride < 1:
            raise ConfigError(f"window_stride is {self.window_stride}; it must be at least 1")
        if self.num_frames_ahead is not None and self.num_frames_ahead < 1:
            raise ConfigError(f"num_frames_ahead is {self.num_frames_ahead}; it must be at least 1")


@dataclass(frozen=True)
class Forecast(Artifact):
    """`forecast.json`: errors of each predictor at each frame ahead, their means, and those of reconstruction."""

    def read(self) -> dict[str, Any]:
        """The file."""
        found: dict[str, Any] = read_json(self.path(FORECAST_FILE))
        return found


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

    encoder: Encoder
    percepts: Percepts
    parts: tuple[str, ...]
    standardise: Standardisation
    num_frames_ahead: int
    stride: int
    device: str

    def __call__(self) -> Callable[[Span], Sums]:
        model = Pretrained.load(self.encoder.uri, device=self.device).composite
        num_frames = model.config.num_frames_in + self.num_frames_ahead
        windows = open_windows(self.percepts.open(parts=self.parts), num_frames, self.stride).windows

        def measure(span: Span) -> Sums:
            x_TBD = self.standardise(torch.from_numpy(windows.gather(np.arange(*span))).to(self.device))
            return errors_of(model, x_TBD)

        return measure


def name_of(model: Composite) -> str:
    """The model's name among the predictors."""
    return f"{model.config.decoders} LSTM"


@torch.no_grad()
def errors_of(model: Composite, x_TBD: Tensor) -> Sums:
    """Errors over the windows of `x_TBD`: frames to encode, and the true frames after them."""
    past_TBD, future_PBD = x_TBD[: model.config.num_frames_in], x_TBD[model.config.num_frames_in :]
    state = model.encode(past_TBD)
    ahead = {COPY_LAST: past_TBD[-1:].expand_as(future_PBD), MEAN_FRAME: torch.zeros_like(future_PBD)}
    reconstruction = {MEAN_FRAME: torch.zeros_like(past_TBD)}
    if model.config.predicts:
        ahead = {name_of(model): model.extrapolate(state, len(future_PBD)), **ahead}
    if model.config.reconstructs:
        reconstruction = {name_of(model): model.reconstruct(state).flip(0), **reconstruction}
    return Sums(
        {name: _squared_errors(frames, future_PBD) for name, frames in ahead.items()},
        {name: _squared_errors(frames, past_TBD) for name, frames in reconstruction.items()},
    )


def _squared_errors(found_TBD: Tensor, true_TBD: Tensor) -> npt.NDArray[np.float64]:
    """(T,), summed over windows and dimensions."""
    errors: npt.NDArray[np.float64] = (found_TBD.double() - true_TBD.double()).square().sum((1, 2)).cpu().numpy()
    return errors


@stage(version=1)
def forecast(
    config: ForecastConfig, context: Context, *, encoder: Encoder, percepts: Percepts, statistics: Statistics
) -> Forecast:
    """Measures the model of `encoder` on windows of `config.parts`; the same numbers for any number of workers.

    Raises:
        ConfigError: the encoder was trained with other statistics, or no video is as long as a window.
        SourceError: no video with frames is of `config.parts`.
    """
    pretrained = Pretrained.load(encoder.uri)
    model = pretrained.composite.config
    standardise = Standardisation.of(statistics.moments())
    if pretrained.standardisation is not None and pretrained.standardisation != standardise:
        raise ConfigError("the encoder was trained with other statistics: connect those that it was trained with")
    measuring = Measuring(
        encoder=encoder,
        percepts=percepts,
        parts=config.parts,
        standardise=standardise,
        num_frames_ahead=config.num_frames_ahead or model.num_frames_out,
        stride=config.window_stride,
        device="cuda" if context.resources.gpus_per_worker else "cpu",
    )
    num_frames = model.num_frames_in + measuring.num_frames_ahead
    num_windows = len(open_windows(percepts.open(parts=config.parts), num_frames, config.window_stride).windows)
    found = _measure_all(measuring, num_windows, context)
    facts = _facts(found, num_windows=num_windows, dim=model.dim)
    write_json(join(context.uri, FORECAST_FILE), facts)
    context.record(num_windows=num_windows, **{f"{name} error": mean for name, mean in facts["means"].items()})
    return Forecast(context.uri, context.key)


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


def _facts(found: list[Sums], *, num_windows: int, dim: int) -> dict[str, Any]:
    """The contents of forecast.json."""
    ahead = _mean([sums.ahead for sums in found], num_windows)
    rebuilt = _mean([sums.reconstruction for sums in found], num_windows)
    return {
        "unit": UNIT,
        "num_windows": num_windows,
        "num_dims": dim,
        "frames_ahead": list(range(1, len(next(iter(ahead.values()))) + 1)),
        "predictors": {name: errors.tolist() for name, errors in ahead.items()},
        "means": {name: float(errors.mean()) for name, errors in ahead.items()},
        "reconstruction": {name: float(errors.mean()) for name, errors in rebuilt.items()},
    }


def _mean(parts: list[Errors], num_windows: int) -> Errors:
    return {name: np.sum([part[name] for part in parts], axis=0) / num_windows for name in parts[0]}
