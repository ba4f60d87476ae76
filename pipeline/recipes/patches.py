"""Recipe patches: the models of Table 2 on 32x32 colour patches of videos of your own.

(unpack ─) ingest ─ cut ─ pretrain, one a model ─ score_pixels, visualize
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.plan import Plan
from pipeline.recipes.agreement import check_enough, check_patches
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
from pipeline.recipes.run_options import NEEDS_PLAN, NOT_WITH, RUN_GROUP
from pipeline.recipes.video_inputs import ONE_LIMITS, VideoOptions, add_index, within_limits
from pipeline.recipes.window_check import WindowCheck
from stages.cut_patches import CutPatchesConfig, cut_patches
from stages.models.config import CompositeConfig
from stages.pretrain import PretrainConfig
from stages.pretraining.config import TrainingConfig
from stages.score_pixels import ScorePixelsConfig, score_pixels
from stages.visualize import VisualizeConfig, visualize


@dataclass(frozen=True, kw_only=True)
class PatchesOptions(VideoOptions):
    """32x32 colour patches of videos of your own: sixteen frames in and reconstructed, thirteen predicted."""

    videos: tuple[str, ...]
    """Videos to learn from: folders, archives (.zip, .tar*, .rar), globs, files, lists (.txt, .csv, .tsv,
    .jsonl, .json, .parquet) and bucket URLs."""
    models: tuple[Model, ...] = ("composite",)
    """Models to train, any of the paper's six."""
    cut: CutPatchesConfig = CutPatchesConfig(patches_per_video=256)
    pretrain: PretrainConfig = PretrainConfig(
        model=CompositeConfig(num_units=256, forget_bias=1.0), training=TrainingConfig(batch_size=32)
    )
    """Settings of every model; its decoders are those of --models."""
    num_test_sequences: int = 10_000
    """Largest number of test patches to score."""
    pictures: bool = True
    """Draw what the first model remembers and expects; this needs matplotlib."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.score

    @property
    def score(self) -> ScorePixelsConfig:
        """The settings of the scores."""
        return ScorePixelsConfig(num_test_sequences=self.num_test_sequences)


def build(options: PatchesOptions) -> Plan:
    """Builds the plan."""
    check_patches(options.cut.num_frames, options.pretrain)
    plan = Plan("patches")
    check = WindowCheck(
        num_frames=options.cut.num_frames,
        rate_fps=None,
        setting="cut.num_frames",
        of_short="no patches come out of them",
    )
    index = add_index(plan, options, options.videos, check=check)
    check_enough(index, has_test=True)
    made = plan.add(cut_patches, within_limits(options.cut, options.limits), resources=options.on_cpus, index=index)
    encoders = pretrain_models(plan, options.models, options.pretrain, options.to_train, patches=made)
    plan.add(score_pixels, options.score, resources=options.on_devices, encoders=encoders, patches=made)
    if options.pictures:
        plan.add(visualize, VisualizeConfig(), encoder=encoders[0], patches=made)
    return plan


RECIPE = Recipe(
    name="patches",
    summary=RECIPES["patches"][1],
    options=PatchesOptions,
    build=build,
    shown={
        "the patches": ("videos", "cut.patches-per-video", "cut.short-side-px"),
        "what is learned": ("models", *PRETRAIN_GROUP, "num-test-sequences"),
        "the run": RUN_GROUP,
    },
    examples=(
        "percepts run patches --videos clips/ --preset laptop",
        "percepts run patches --videos clips/ --preset gpu --models composite future",
    ),
    presets={
        "laptop": {"pretrain.num-units": 256, "pretrain.num-steps": 1000},
        "gpu": PIXELS_ON_A_GPU,
        "paper": PUBLISHED_PIXELS,
    },
    refused=REFUSED | ONE_LIMITS | OF_PERCEPTS,
    only_with=NEEDS_PLAN,
    not_with=NOT_WITH,
)
