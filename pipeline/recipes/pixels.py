"""The part that recipes moving-mnist and patches share: models of pixels, their scores and their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pipeline.engine.plan import Plan
from pipeline.recipes.model_variants import (
    ON_GPUS,
    PUBLISHED,
    Model,
    pretrain_models,
)
from pipeline.recipes.run_options import RunOptions
from stages.figures.config import VisualizeConfig
from stages.forecast import ScorePixelsConfig, score_pixels
from stages.pretrain import PretrainConfig
from stages.visualize import visualize


@dataclass(frozen=True, kw_only=True)
class PixelOptions(RunOptions):
    """The options of both recipes."""

    models: tuple[Model, ...] = ("composite",)
    """Models to train, any of the paper's six."""
    pretrain: PretrainConfig = PretrainConfig()
    num_test_sequences: int = 10_000
    """Largest number of test sequences to score; Moving MNIST has 10,000 fixed ones."""
    pictures: bool = True
    """Draw what the first model remembers and expects; this needs matplotlib."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.score

    @property
    def score(self) -> ScorePixelsConfig:
        """The settings of the scores."""
        return ScorePixelsConfig(num_test_sequences=self.num_test_sequences)


def add_pixel_models(plan: Plan, options: PixelOptions, **source: Any) -> None:
    """Adds the models that learn from a source of pixels, by the name of its edge, and what is made of them."""
    models = pretrain_models(plan, options.models, options.pretrain, options.to_train, numbers=range(1), **source)
    encoders = [node for (node,) in models.values()]
    plan.add(score_pixels, options.score, resources=options.on_devices, encoders=encoders, **source)
    if options.pictures:
        plan.add(visualize, VisualizeConfig(), encoder=encoders[0], **source)


ON_A_GPU: Final[dict[str, Any]] = ON_GPUS | {
    "pretrain.num-units": 2048,
    "pretrain.num-layers": 2,
    "pretrain.batch-size": 512,
    "pretrain.num-steps": 16_000,
    "pretrain.optimizer.learning-rate": 1e-3,
    "pretrain.optimizer.final-fraction": 0.02,
    "pretrain.optimizer.num-warmup-steps": 300,
    "pretrain.validate-every-steps": 1000,
    "pretrain.checkpoint-every-steps": 1000,
}
"""The size and schedule of models of pixels on GPUs."""
PRESETS: Final = {"gpu": ON_A_GPU, "paper": PUBLISHED | ON_GPUS | {"pretrain.num-steps": 100_000}}
