"""Recipe youtube: representations of unlabelled videos of your own.

(unpack ─) ingest ─ extract ─ standardize ─ pretrain, one a model ─ forecast, visualize
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.plan import Plan
from pipeline.recipes.model_variants import Model, pretrain_models
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.registry import RECIPES
from pipeline.recipes.run_options import RunOptions
from pipeline.recipes.video_inputs import add_index, within_limits
from stages.extract import ExtractConfig, extract
from stages.forecast import ForecastConfig, forecast
from stages.ingest import IngestConfig
from stages.pretrain import PretrainConfig
from stages.standardize import StandardizeConfig, standardize
from stages.video.container import Limits
from stages.visualize import VisualizeConfig, visualize


@dataclass(frozen=True, kw_only=True)
class YoutubeOptions(RunOptions):
    """Unlabelled videos of your own: index, extract, pretrain, and see what the models expect next."""

    videos: tuple[str, ...]
    """Folders, archives (.zip, .tar*, .rar), globs, files, manifests (.txt, .csv, .jsonl, .parquet), bucket URLs."""
    models: tuple[Model, ...] = ("composite",)
    """Any of the paper's six."""
    held_out: float = 0.1
    """Share of the videos that nothing is learned from, in whole groups, chosen by content; the models' forecasts are
    scored on them. 0: none, and no scores. A manifest's own part `test` is held out anyway."""
    limits: Limits = Limits()
    """The bounds beyond which a video is rejected, when it is indexed and when it is decoded."""
    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()
    """Of every model; the decoders are those of `models`."""
    forecast: ForecastConfig = ForecastConfig()


def build(options: YoutubeOptions) -> Plan:
    """Representations of unlabelled video."""
    plan = Plan("youtube")
    run, run_gpu = options.on_cpus, options.on_devices
    sources = IngestConfig(videos=options.videos, held_out=options.held_out, limits=options.limits)
    index = add_index(plan, sources, run)
    percepts = plan.add(extract, within_limits(options.extract, options.limits), resources=run_gpu, index=index)
    statistics = plan.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    encoders = pretrain_models(
        plan, options.models, options.pretrain, run_gpu, percepts=percepts, statistics=statistics
    )
    shown = VisualizeConfig()
    if options.held_out:
        plan.add(
            forecast, options.forecast, resources=run_gpu, encoders=encoders, percepts=percepts, statistics=statistics
        )
    else:
        shown = VisualizeConfig(fit_part=None, show_part=None)
    plan.add(visualize, shown, encoder=encoders[0], percepts=percepts)
    return plan


RECIPE = Recipe(
    name="youtube",
    summary=RECIPES["youtube"][1],
    options=YoutubeOptions,
    build=build,
)
