"""Forecasting: how well pretrained models foretell percepts of videos they have never seen, open loop, frame by frame.

Beside them two predictors that know nothing of motion: the last frame seen, for ever, and the mean frame of the corpus,
which is zero after standardisation. Writes `forecast.json`.

Shapes: T frames, P frames ahead, B windows, D percept dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.numbers import check_at_least
from pipeline.core.rates import FORECAST_S, WORKER_START_S
from pipeline.core.stage import Context, Estimate, stage
from stages.evaluation.artifacts import Forecast
from stages.models.artifacts import Encoder
from stages.models.config import common_lengths
from stages.percepts.artifacts import Percepts, Statistics
from stages.video.ledger import amounts_of

if TYPE_CHECKING:  # torch takes seconds to import
    from stages.evaluation.forecasting import Measuring, Sums

WINDOWS_AN_ITEM = 128


@dataclass(frozen=True, kw_only=True)
class ForecastConfig:
    """The videos and frames that are predicted."""

    parts: tuple[str, ...] = ("test",)
    """Parts of the videos' split to measure on; none that a model has learned from."""
    window_stride: int = 8
    """A window of frames begins every so many frames of a video."""
    num_frames_ahead: int | None = None
    """Frames to predict; default: as many as the models were trained for."""

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("parts is empty; name the parts to measure on, such as test")
        check_at_least(self, 1, "window_stride", "num_frames_ahead")


@stage(version=2, estimate=lambda config, inputs: Estimate(seconds=WORKER_START_S + FORECAST_S))
def forecast(
    config: ForecastConfig,
    context: Context,
    *,
    encoders: tuple[Encoder, ...],
    percepts: Percepts,
    statistics: Statistics,
) -> Forecast:
    """Measures the models on windows of `config.parts`; the same numbers for any number of workers.

    Errors are those of percepts standardised by `statistics`, also of a model that was trained with others.

    Raises:
        ConfigError: no model, models that differ in the number of frames, or no video is as long as a window with
            `config.num_frames_ahead`. Without that setting nothing is scored then, which is said, as it is where no
            video is of `config.parts`.
    """
    from stages.datasets.dataset_factories import open_windows
    from stages.evaluation.forecasting import Measuring, no_errors, predictor_names, total_errors
    from stages.models.pretrained import Pretrained
    from stages.percepts.transforms import Standardisation

    loaded = [Pretrained.load(encoder.uri) for encoder in encoders]
    standardise = Standardisation.of(statistics.moments())
    models = [each.composite.config for each in loaded]
    num_frames_in, num_frames_out = common_lengths(models)
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
    artifact = Forecast(context.uri, context.key)
    try:
        store = percepts.open(parts=config.parts)
        num_windows = len(open_windows(store, num_frames, config.window_stride))
    except (SourceError, ConfigError) as error:
        if config.num_frames_ahead is not None and isinstance(error, ConfigError):
            raise
        # The models are trained: videos that are too short, or rejected, leave their scores out and end nothing.
        artifact.write(no_errors(dim=models[0].dim))
        context.record(num_windows=0, num_videos=0, left_out=f"nothing is scored: {error}")
        context.log(f"warning: nothing is scored: {error}")
        return artifact
    sums_by_item = _measure_all(measuring, num_windows, context)
    errors = total_errors(sums_by_item, num_windows=num_windows, num_videos=len(store.videos), dim=models[0].dim)
    artifact.write(errors)
    means = {f"{name} error": mean for name, mean in errors.means.items()}
    amounts = amounts_of(percepts.iter_records(), test=set(store.videos))
    context.record(num_windows=num_windows, num_videos=len(store.videos), **means, **amounts)
    return artifact


def _measure_all(measuring: Measuring, num_windows: int, context: Context) -> list[Sums]:
    """Returns the sums of every item, in order, so that they do not depend on the speed of workers."""
    spans = [(first, min(first + WINDOWS_AN_ITEM, num_windows)) for first in range(0, num_windows, WINDOWS_AN_ITEM)]
    results = context.workers.map(
        measuring,
        spans,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        gpus_per_worker=context.resources.gpus_per_worker,
        describe=lambda span: f"windows {span[0]} to {span[1] - 1}",
    )
    sums_by_item: dict[int, Sums] = {}
    for position, sums in results:
        sums_by_item[position] = sums
        context.progress(sum(spans[done][1] - spans[done][0] for done in sums_by_item), num_windows, "windows")
    return [sums_by_item[position] for position in range(len(spans))]
