"""Recipe patches: the models of Table 2 on 32x32 colour patches of videos of your own.

(unpack ─) ingest ─ cut ─ pretrain, one a model ─ score_pixels, visualize
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.plan import Plan
from pipeline.recipes.agreement import check_enough, check_patches
from pipeline.recipes.model_variants import OF_PERCEPTS, PRETRAIN_GROUP, REFUSED
from pipeline.recipes.pixels import PRESETS, PixelOptions, add_pixel_models
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_checks import WindowCheck
from pipeline.recipes.video_inputs import ONE_LIMITS, VideoOptions, add_index, within_limits
from stages.digits_and_patches import CutPatchesConfig, cut_patches
from stages.models.config import CompositeConfig
from stages.pretrain import PretrainConfig
from stages.pretraining.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PatchesOptions(PixelOptions, VideoOptions):
    """32x32 colour patches of videos of your own: sixteen frames in and reconstructed, thirteen predicted."""

    videos: tuple[str, ...]
    """Videos to learn from: folders, archives (.zip, .tar*, .rar), globs, files, lists (.txt, .csv, .tsv,
    .jsonl, .json, .parquet) and bucket URLs."""
    cut: CutPatchesConfig = CutPatchesConfig(patches_per_video=256)
    pretrain: PretrainConfig = PretrainConfig(
        model=CompositeConfig(num_units=256, forget_bias=1.0), training=TrainingConfig(batch_size=32)
    )
    """Settings of every model; its decoders are those of --models."""


def build(options: PatchesOptions) -> Plan:
    """Builds the plan."""
    check_patches(options.cut.num_frames, options.pretrain)
    plan = Plan("patches")
    check = WindowCheck(
        num_frames=options.cut.num_frames,
        rate_fps=None,
        remedy="give fewer cut.num_frames",
        of_short="no patches come out of them",
    )
    index = add_index(plan, options, options.videos, check=check)
    check_enough(index, has_test=True)
    made = plan.add(cut_patches, within_limits(options.cut, options.limits), resources=options.on_cpus, index=index)
    add_pixel_models(plan, options, patches=made)
    return plan


PATCHES = Recipe(
    name="patches",
    options=PatchesOptions,
    build=build,
    shown={
        "the patches": ("videos", "cut.patches-per-video", "cut.short-side-px"),
        "what is learned": ("models", *PRETRAIN_GROUP, "num-test-sequences"),
    },
    examples=(
        "percepts run patches --videos clips/ --preset laptop",
        "percepts run patches --videos clips/ --preset gpu --models composite future",
    ),
    presets={"laptop": {"pretrain.num-units": 256, "pretrain.num-steps": 1000}, **PRESETS},
    refused=REFUSED | ONE_LIMITS | OF_PERCEPTS,
)
