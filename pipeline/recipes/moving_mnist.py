"""Recipe moving-mnist: the models of Table 2 on two bouncing digits. It needs none of the libraries of video.

digits ─ pretrain, one a model ─ score_pixels, visualize
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.plan import Plan
from pipeline.recipes.model_variants import OF_PERCEPTS, PRETRAIN_GROUP, REFUSED
from pipeline.recipes.pixels import PRESETS, PixelOptions, add_pixel_models
from pipeline.recipes.recipe import Recipe
from stages.digits_and_patches import LoadDigitsConfig, load_digits
from stages.models.config import CompositeConfig
from stages.pretrain import PretrainConfig
from stages.pretraining.config import OptimizerConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class MovingMNISTOptions(PixelOptions):
    """Two bouncing digits, ten frames in, ten to predict: the paper's Table 2, open loop on 10,000 fixed sequences."""

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


def build(options: MovingMNISTOptions) -> Plan:
    """Builds the plan."""
    plan = Plan("moving-mnist")
    add_pixel_models(plan, options, digits=plan.add(load_digits, options.digits))
    return plan


MOVING_MNIST = Recipe(
    name="moving-mnist",
    options=MovingMNISTOptions,
    build=build,
    shown={
        "the digits": ("digits.mnist",),
        "what is learned": (
            "models",
            *(name for name in PRETRAIN_GROUP if name != "pretrain.num-passes"),
            "num-test-sequences",
        ),
    },
    examples=(
        "percepts run moving-mnist --preset laptop",
        "percepts run moving-mnist --preset gpu --digits.mnist /data/mnist",
    ),
    presets=PRESETS
    | {
        "laptop": {"pretrain.num-units": 384, "pretrain.num-steps": 2800},
        "gpu": PRESETS["gpu"] | {"pretrain.batch-size": 1024, "pretrain.optimizer.learning-rate": 2e-3},
    },
    refused=REFUSED
    | OF_PERCEPTS
    | {"pretrain.num-passes": "sequences of Moving MNIST never repeat, so that there is no pass"},
)
