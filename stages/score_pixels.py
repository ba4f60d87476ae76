"""score_pixels: how well models of pixels predict the fixed test set, beside baselines, open loop.

    score_pixels(ScorePixelsConfig(), context, encoders=(composite, future), digits=digits)

Open loop: a model sees the input frames and nothing after them; a conditional decoder reads its own output. What it
predicts with the true frames before (teacher-forced) stands apart and is never mixed in.

Shapes: T frames, N sequences of the test set, D pixels (and channels) of a frame, S softenings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_at_least
from pipeline.core.stage import Context, stage
from stages.datasets.artifacts import Digits, Patches
from stages.evaluation.artifacts import PixelScores, PixelScoreTable
from stages.models.artifacts import Encoder
from stages.models.config import common_lengths, model_names


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
