"""Stages that measure how well pretrained models foretell: forecast of percepts, score_pixels of pixels.

    forecast(ForecastConfig(), context, encoders=(composite, future), percepts=percepts, statistics=statistics)
    score_pixels(ScorePixelsConfig(), context, encoders=(composite, future), digits=digits)

Both are open loop: a model sees the input frames and nothing after them; a conditional decoder reads its own output.

`forecast` takes videos that the models have never seen, frame by frame, and two predictors besides that know nothing
of motion: the last frame seen, for ever, and the mean frame of the corpus, which is zero after standardisation.
`score_pixels` takes a fixed test set, and baselines of the same kind. What a model predicts with the true frames before
(teacher-forced) stands apart there and is never mixed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.numbers import check_at_least
from pipeline.core.rates import FORECAST_S, WORKER_START_S
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.artifacts import Digits, Patches
from stages.evaluation.artifacts import Forecast, PixelScores, PixelScoreTable
from stages.models.artifacts import Encoder
from stages.models.config import common_lengths, model_names
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


@stage(version=3, estimate=lambda config, inputs: Estimate(seconds=WORKER_START_S + FORECAST_S))
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
        windows = open_windows(store, num_frames, config.window_stride)
    except (SourceError, ConfigError) as error:
        if config.num_frames_ahead is not None and isinstance(error, ConfigError):
            raise
        # The models are trained: videos that are too short, or rejected, leave their scores out and end nothing.
        artifact.write(no_errors(dim=models[0].dim))
        context.record(num_windows=0, num_videos=0, left_out=f"nothing is scored: {error}")
        context.log(f"warning: nothing is scored: {error}")
        return artifact
    num_windows = len(windows)
    records = (record for record in percepts.iter_records() if record.part in config.parts)
    group_of = {record.sha256: record.group or record.sha256 for record in records}
    _, group_V = np.unique([group_of[video] for video in windows.store.videos], return_inverse=True)
    _, group_N = np.unique(group_V[windows.locate(np.arange(num_windows))[0]], return_inverse=True)
    sums_by_item = _measure_all(measuring, num_windows, context)
    errors = total_errors(sums_by_item, group_N=group_N, num_videos=len(store.videos), dim=models[0].dim)
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


@dataclass(frozen=True, kw_only=True)
class ScorePixelsConfig:
    """The number of sequences that are scored."""

    num_test_sequences: int = 10_000
    """The first sequences of the fixed test set; figures beside published ones need all 10,000. Of patches: at most."""

    def __post_init__(self) -> None:
        check_at_least(self, 2, "num_test_sequences")


@stage(version=2)
def score_pixels(
    config: ScorePixelsConfig,
    context: Context,
    *,
    encoders: tuple[Encoder, ...],
    digits: Digits | None = None,
    patches: Patches | None = None,
) -> PixelScores:
    """Evaluates all encoders on the fixed Moving MNIST test set of `digits`, or on the test patches.

    Raises:
        ConfigError: no model, not exactly one kind of data, or models that differ from it or one another in the size or
          number of frames.
        CorruptArtifact: the generator no longer makes the test set whose digest is recorded.
    """
    from stages.evaluation import pixel_table
    from stages.evaluation.pixel_scoring import BASELINES

    models = [encoder.load() for encoder in encoders]
    configs = [model.config for model in models]
    num_in, num_out = common_lengths(configs)
    if digits is not None and patches is None:
        facts, task = pixel_table.digits_task(config.num_test_sequences, encoders, digits, num_in, num_out)
    elif patches is not None and digits is None:
        facts, task = pixel_table.patches_task(config.num_test_sequences, encoders, patches, num_in, num_out)
    else:
        raise ConfigError("score_pixels needs one kind of data: digits, or patches")
    dim = len(task.mean_frame_D)
    if wrong := [each.dim for each in configs if each.dim != dim]:
        raise ConfigError(f"a model reads frames of {wrong[0]} values, the data have {dim}: connect its own")
    task = replace(task, device="cuda" if context.resources.gpus_per_worker > 0 else "cpu")
    columns = pixel_table.score_columns(task, context)
    rows = [
        pixel_table.table_row(
            name,
            each,
            task.in_nats,
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            **pixel_table.training_facts(encoder),
        )
        for name, each, model, encoder in zip(
            model_names(configs), columns[: len(models)], models, encoders, strict=True
        )
    ]
    baselines = [
        pixel_table.table_row(name, each, task.in_nats)
        for name, each in zip(BASELINES, columns[len(models) :], strict=True)
    ]
    unit = "nats/frame" if task.in_nats else "squared error/frame"
    table = PixelScoreTable(
        protocol="open loop",
        unit=unit,
        rows=tuple(rows),
        baselines=tuple(baselines),
        num_test_sequences=task.num_test,
        num_frames_in=num_in,
        num_frames_out=num_out,
        **facts,
    )
    artifact = PixelScores(context.uri, context.key)
    artifact.write(table)
    context.record(num_test_sequences=task.num_test)
    return artifact
