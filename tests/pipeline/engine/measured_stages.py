"""Toy stages whose artifacts are those of real results, with numbers that follow a setting."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from pipeline.core.files import write_json
from pipeline.core.stage import Context, stage
from stages.evaluation.artifacts import (
    COPY_LAST,
    Forecast,
    ForecastErrors,
    PixelScoreRow,
    PixelScores,
    PixelScoreTable,
    Scores,
)
from stages.evaluation.score_table import MeanAccuracy, PairedDifference, SamplingAccuracy, ScoreTable
from tests.pipeline.engine.toy_stages import CountConfig, Numbers

FRAME, LSTM = "single frame", "LSTM, pretrained"
COUNTS = (1, 5, 0)


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    skill: float = 0.1


@dataclass(frozen=True)
class Films(Numbers):
    holds = "names"
    columns = MappingProxyType({"uri": "string", "num_frames": "long"})


@stage(version=1)
def film(config: CountConfig, context: Context) -> Films:
    write_json(f"{context.uri}/numbers.json", [config.num])
    context.record(num_videos=config.num, num_frames=20 * config.num, seconds_of_video=3600)
    return Films(context.uri, context.key)


def accuracies(skill: float) -> tuple[SamplingAccuracy, ...]:
    """Returns those of three samplings, which grow with skill, and not all by as much."""
    return tuple(
        SamplingAccuracy(model=LSTM, labels_per_class=n, sampling=i, accuracy=0.2 + skill * (1 + 0.1 * i))
        for n in COUNTS
        for i in range(3)
    )


@stage(version=1)
def judge(config: MeasureConfig, context: Context, *, numbers: Numbers) -> Scores:
    def interval(mean: float) -> dict[str, float]:
        return {"low": mean - 0.05, "high": mean + 0.05}

    means = {(model, n): 0.2 + config.skill * (model == LSTM) + 0.01 * n for model in (FRAME, LSTM) for n in COUNTS}
    table = ScoreTable(
        class_names=("up", "down"), num_test_clips=20, chance=0.5, cells=tuple(means),
        samplings=accuracies(config.skill),
        summary=tuple(
            MeanAccuracy(model=model, labels_per_class=n, mean=mean, num_samplings=2, **interval(mean))
            for (model, n), mean in means.items()
        ),
        paired=tuple(
            PairedDifference(
                worse=FRAME, better=LSTM, labels_per_class=n, difference=config.skill, **interval(config.skill)
            )
            for n in COUNTS
        ),
        confusion={},
    )  # fmt: skip
    scores = Scores(context.uri, context.key)
    scores.write(table)
    return scores


@stage(version=1)
def foresee(config: MeasureConfig, context: Context, *, numbers: Numbers) -> Forecast:
    error = 10.0 - config.skill
    forecast = Forecast(context.uri, context.key)
    forecast.write(
        ForecastErrors(
            unit="squared error", num_windows=4, num_dims=2, frames_ahead=(1, 2),
            predictors={LSTM: (error, error + 1), COPY_LAST: (10.0, 30.0)},
            means={LSTM: error, COPY_LAST: 20.0}, reconstruction={LSTM: 3.0},
        )
    )  # fmt: skip
    return forecast


@stage(version=1)
def draw(config: MeasureConfig, context: Context, *, numbers: Numbers) -> PixelScores:
    nats = 300.0 - config.skill
    row = PixelScoreRow(
        model=LSTM, cross_entropy=nats, cross_entropy_low=nats - 1, cross_entropy_high=nats + 1,
        cross_entropy_by_frame=(nats, nats), mse=50.0, ssim=0.8,
    )  # fmt: skip
    scores = PixelScores(context.uri, context.key)
    scores.write(PixelScoreTable(protocol="open loop", unit="nats per frame", rows=(row,)))
    return scores
