"""Recipe moving-mnist: the models of Table 2 on two bouncing digits.

digits ─ pretrain, one a model ─ score_pixels, visualize
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.plan import Plan
from pipeline.recipes.model_variants import (
    OF_PERCEPTS,
    PIXELS_ON_A_GPU,
    PRETRAIN_GROUP,
    PUBLISHED_PIXELS,
    REFUSED,
    Model,
    pretrain_models,
)
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.registry import RECIPES
from pipeline.recipes.run_options import NEEDS_PLAN, NOT_WITH, RUN_GROUP, RunOptions
from stages.load_digits import LoadDigitsConfig, load_digits
from stages.models.config import CompositeConfig
from stages.pretrain import PretrainConfig
from stages.pretraining.config import OptimizerConfig, TrainingConfig
from stages.score_pixels import ScorePixelsConfig, score_pixels
from stages.visualize import VisualizeConfig, visualize


@dataclass(frozen=True, kw_only=True)
class MovingMNISTOptions(RunOptions):
    """Two bouncing digits, ten frames in, ten to predict: the paper's Table 2, open loop on 10,000 fixed sequences."""

    models: tuple[Model, ...] = ("composite",)
    """Models to train, any of the paper's six."""
    digits: LoadDigitsConfig = LoadDigitsConfig()
    pretrain: PretrainConfig = PretrainConfig(
        model=CompositeConfig(num_frames_in=10, num_frames_out=10, loss="bernoulli", num_units=384, forget_bias=1.0),
        training=TrainingConfig(
            precision="bfloat16",
            start_at_mean=True,
            batch_size=64,
            num_steps=2800,
            optimizer=OptimizerConfig(learning_rate=3e-3, final_fraction=0.02, num_warmup_steps=80, beta2=0.95),
            validate_every_steps=400,
            max_validation_batches=5,
            checkpoint_every_steps=400,
        ),
    )
    """Settings of every model; its decoders are those of --models. Each takes about eight minutes on two cores."""
    num_test_sequences: int = 10_000
    """Number of the fixed test sequences to score."""
    pictures: bool = True
    """Draw what the first model remembers and expects; this needs matplotlib."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.score

    @property
    def score(self) -> ScorePixelsConfig:
        """The settings of the scores."""
        return ScorePixelsConfig(num_test_sequences=self.num_test_sequences)


def build(options: MovingMNISTOptions) -> Plan:
    """Builds the plan."""
    plan = Plan("moving-mnist")
    made = plan.add(load_digits, options.digits)
    encoders = pretrain_models(plan, options.models, options.pretrain, options.to_train, digits=made)
    plan.add(score_pixels, options.score, resources=options.on_devices, encoders=encoders, digits=made)
    if options.pictures:
        plan.add(visualize, VisualizeConfig(), encoder=encoders[0], digits=made)
    return plan


RECIPE = Recipe(
    name="moving-mnist",
    summary=RECIPES["moving-mnist"][1],
    options=MovingMNISTOptions,
    build=build,
    shown={
        "the digits": ("digits.mnist",),
        "what is learned": (
            "models",
            *(name for name in PRETRAIN_GROUP if name != "pretrain.num-passes"),
            "num-test-sequences",
        ),
        "the run": RUN_GROUP,
    },
    examples=(
        "percepts run moving-mnist --preset laptop",
        "percepts run moving-mnist --preset gpu --digits.mnist /data/mnist",
    ),
    presets={
        "laptop": {"pretrain.num-units": 384, "pretrain.num-steps": 2800},
        "gpu": PIXELS_ON_A_GPU,
        "paper": PUBLISHED_PIXELS,
    },
    refused=REFUSED
    | OF_PERCEPTS
    | {"pretrain.num-passes": "sequences of Moving MNIST never repeat, so that there is no pass"},
    only_with=NEEDS_PLAN,
    not_with=NOT_WITH,
)
