"""Recipe youtube: representations of unlabelled videos of your own.

(unpack, download ─) ingest ─ extract ─ standardize ─ pretrain, one a model ─ forecast, visualize
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from pipeline.core.errors import ConfigError
from pipeline.core.flags import Inline
from pipeline.engine.plan import Plan
from pipeline.recipes.agreement import check_enough, check_held_out, check_loss
from pipeline.recipes.existing_models import add_warm_start
from pipeline.recipes.link_options import ONLY_WITH_LINKS, LinkOptions, add_download
from pipeline.recipes.model_variants import (
    OF_CORPORA,
    ON_GPUS,
    PAPER_PERCEPTS,
    PASSES_OVER_A_CORPUS,
    PRETRAIN_GROUP,
    PUBLISHED,
    REFUSED,
    Model,
    pretrain_models,
    variant,
)
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_checks import WindowCheck
from pipeline.recipes.video_inputs import ONE_LIMITS, VideoOptions, add_index, within_limits
from stages.extract import ExtractConfig, extract
from stages.figures.config import VisualizeConfig
from stages.forecast import ForecastConfig, forecast
from stages.pretrain import PretrainConfig
from stages.pretraining.config import FEW_VIDEOS
from stages.standardize import StandardizeConfig, standardize
from stages.visualize import visualize

FASTEST_FPS: Final = 60.0
"""Frames per second of a video, at most, where no rate is given."""
SPARE_S: Final = 0.3
"""Seconds that a clip may be longer than was requested."""


@dataclass(frozen=True, kw_only=True)
class YoutubeOptions(VideoOptions):
    """Unlabelled videos of your own: index, extract, pretrain, and see what the models expect next."""

    videos: tuple[str, ...] = ()
    """Folders, archives (.zip, .tar*, .rar), globs, files, lists (.txt, .csv, .tsv, .jsonl, .json, .parquet) and bucket
    URLs of videos to learn from."""
    links: tuple[str, ...] = ()
    """Lists of links (YouTube, any server) to download. Their files are deleted once percepts are made of them;
    docs/youtube.md has the options."""
    link_options: Inline[LinkOptions] = LinkOptions()
    models: tuple[Model, ...] = ("composite",)
    """Models to train, any of the paper's six."""
    held_out: float = 0.1
    """Share of the videos that nothing is learned from; the models' forecasts are scored on them. They are chosen by
    content, in whole groups. 0 holds out none, and nothing is scored. A manifest's part `test` is held out anyway;
    of --links, so is `validation`, and `train` is learned from."""
    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = replace(PASSES_OVER_A_CORPUS, few_videos=FEW_VIDEOS)
    """Settings of every model; its decoders are those of --models."""
    warm_start: str | None = None
    """Encoder that pretraining goes on from. A key of the store (pretrain-...), a model of MLflow (models:/NAME@ALIAS),
    or the path or URL of one; it must have the settings of --pretrain and --extract. Default: random weights."""
    forecast: ForecastConfig = ForecastConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it is a share of the videos: give 0 <= held_out < 1")


def build(options: YoutubeOptions) -> Plan:
    """Builds the plan. Raises ConfigError where options do not fit together."""
    if not options.held_out and options.forecast != ForecastConfig():
        raise ConfigError("--forecast has no effect with --held-out 0, which scores nothing: leave one out")
    if not (options.videos or options.links):
        raise ConfigError("there is nothing to learn from: give --videos, such as clips/, or --links, such as list.csv")
    check_loss(options.pretrain)
    plan = Plan("youtube")
    run_gpu = options.on_devices
    extraction = within_limits(options.extract, options.limits)
    corpus = None
    if options.links:
        corpus = add_download(plan, options, options.links, options.link_options, extraction, is_all=not options.videos)
    check = _window_check(options)
    _check_clips(options, check)
    index = add_index(plan, options, options.videos, held_out=options.held_out, corpus=corpus, check=check)
    check_enough(index, has_test=bool(options.held_out), without_test="--held-out 0")
    check_held_out(index, options.held_out, options.pretrain.validation_fraction)
    percepts = plan.add(extract, extraction, resources=run_gpu, index=index)
    statistics = plan.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    source = {"percepts": percepts, "statistics": statistics}
    if options.warm_start is not None:
        source["warm_start"] = add_warm_start(
            plan,
            options.warm_start,
            [variant(options.pretrain, model) for model in options.models],
            store_uri=options.store,
            percepts=percepts,
        )
    models = pretrain_models(plan, options.models, options.pretrain, options.to_train, numbers=range(1), **source)
    encoders = [node for (node,) in models.values()]
    shown = VisualizeConfig()
    if options.held_out:
        plan.add(
            forecast, options.forecast, resources=run_gpu, encoders=encoders, percepts=percepts, statistics=statistics
        )
    else:
        shown = VisualizeConfig(fit_part=None, show_part=None)
    plan.add(visualize, shown, encoder=encoders[0], percepts=percepts)
    return plan


def _check_clips(options: YoutubeOptions, check: WindowCheck) -> None:
    """Raises ConfigError where clips of links are shorter than a window, before one is requested."""
    seconds, rate_fps = options.link_options.clip_rules.clip_seconds, check.rate_fps or FASTEST_FPS
    if seconds is None or options.videos:
        return
    num_frames = math.floor((seconds + SPARE_S) * rate_fps)
    if num_frames < check.num_frames:
        raise ConfigError(
            f"a window is {check.num_frames} frames long, and a clip of {seconds:g} s (--clip-seconds) has at most "
            f"{num_frames} at {rate_fps:g} frames/s: give longer clips, or fewer num_frames_in or num_frames_out"
        )


def _window_check(options: YoutubeOptions) -> WindowCheck:
    models = [variant(options.pretrain, model).model for model in options.models]
    return replace(
        WindowCheck.to_pretrain(models, options.pretrain, options.extract),
        num_frames_scored=models[0].num_frames_in + (options.forecast.num_frames_ahead or models[0].num_frames_out),
        scored=options.forecast.parts if options.held_out else (),
        must_score=options.forecast.num_frames_ahead is not None,
    )


YOUTUBE = Recipe(
    name="youtube",
    options=YoutubeOptions,
    build=build,
    shown={
        "videos and percepts": (
            "videos",
            "links",
            "held-out",
            "extract.convnet.name",
            "extract.convnet.layer",
            "extract.decode.rate-fps",
        ),
        "what is learned": ("models", *PRETRAIN_GROUP, "warm-start"),
    },
    examples=(
        "percepts run youtube --videos clips/ --preset laptop",
        "percepts run youtube --links sports-1m.txt --hours 300 --clip-seconds 10",
    ),
    presets={
        **OF_CORPORA,
        "paper": PUBLISHED | PAPER_PERCEPTS | ON_GPUS | {"pretrain.few-videos": 0},
    },
    refused=REFUSED | ONE_LIMITS,
    only_with=ONLY_WITH_LINKS,
    not_with={"max-disk-gb": ("keep-videos",)},
)
