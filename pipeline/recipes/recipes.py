"""THE DAGs. Each recipe is one function from typed options to a plan; every option is a flag of `pipeline/run.py`.

demo     synthesize ─ ingest ─ extract ─ standardize ─ pretrain ─┬─ forecast, visualize
                                  └── finetune (3 arms) ─────────┴─ evaluate
youtube  the same without labels, on videos of your own: six models, some videos held out, a table of forecasts
ucf101, hmdb51   in `action_recipes`, by the official splits
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pipeline.engine.plan import Node, Plan
from pipeline.recipes.action_recognition import HMDB51Options, UCF101Options, hmdb51, ucf101
from pipeline.recipes.arms import ArmConfigs, Measured, add_arms
from pipeline.recipes.model_variants import MODELS, Model, pretrain_models
from pipeline.recipes.run_options import RunOptions
from pipeline.recipes.video_inputs import add_index
from stages.convnets.convnet import ConvnetConfig
from stages.cut_patches import CutConfig, cut
from stages.evaluate import EvaluateConfig, evaluate
from stages.extract import ExtractConfig, extract
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import SelectionConfig
from stages.forecast import ForecastConfig, forecast
from stages.import_encoder import AdoptConfig, adopt
from stages.ingest import IngestConfig
from stages.load_digits import DigitsConfig, digits
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.optimisation import OptimizerConfig
from stages.score_pixels import ScorePixelsConfig, score_pixels
from stages.standardize import StandardizeConfig, standardize
from stages.synthesize import MOTIONS, SynthesizeConfig, synthesize
from stages.video.decode import DecodeConfig
from stages.visualize import VisualizeConfig, visualize

LSTM_CLASSIFIER = FinetuneConfig(
    arm="LSTM from scratch",
    num_units=128,
    forget_bias=1.0,
    learning_rate=1e-3,
    output_learning_rate=1e-2,
    num_steps=60,
    dropout=0.5,
    input_dropout=0.3,
    zero_output=True,
)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(RunOptions):
    """A corpus of moving digits, encoded here; eight motions to tell apart, half of them the other half reversed."""

    videos: tuple[str, ...] = ()
    """More unlabelled video to learn from: folders, globs, manifests, buckets."""
    encoder: str | None = None
    """Finetune this one instead of pretraining one: a pretrain artifact, or models:/NAME@ALIAS of the MLflow that
    MLFLOW_TRACKING_URI names. It must have been made from percepts of the same extractor."""
    corpus: SynthesizeConfig = SynthesizeConfig()
    extract: ExtractConfig = ExtractConfig(
        convnet=ConvnetConfig(layer="blocks.1", grid=4, input_px=64),
        decode=DecodeConfig(short_side_px=64, crop_px=64),
        shard_frames=4096,
    )
    pretrain: PretrainConfig = PretrainConfig(
        num_units=128,
        forget_bias=1.0,
        window_stride=1,
        num_steps=500,
        optimizer=OptimizerConfig(learning_rate=5e-3, num_warmup_steps=20),
        validate_every_steps=100,
        checkpoint_every_steps=100,
    )
    single_frame: FinetuneConfig = FinetuneConfig(
        arm="single frame", model="frame", learning_rate=1e-3, weight_decay=0.1, num_steps=40
    )
    scratch: FinetuneConfig = LSTM_CLASSIFIER
    pretrained: FinetuneConfig = replace(LSTM_CLASSIFIER, arm="LSTM pretrained", learning_rate=3e-4)
    tables: bool = False
    """Measure all of Table 3's seven rows and the label curve up to 50 clips a class, on a corpus with 60 to train on,
    every arm's learning rate and when to stop chosen on some of those; takes several times as long."""


def demo(options: DemoOptions) -> Plan:
    """From video files to a comparison table."""
    plan = Plan("demo")
    run, run_gpu = options.on_cpus, options.on_devices
    corpus = plan.add(synthesize, _with_clips_to_train_on(options) if options.tables else options.corpus, resources=run)
    index = add_index(plan, IngestConfig(videos=options.videos), run, corpus)
    percepts = plan.add(extract, options.extract, resources=run_gpu, index=index)
    statistics = plan.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    if options.encoder is not None:
        encoder = plan.add(adopt, AdoptConfig(encoder=options.encoder))
    else:
        encoder = plan.add(
            pretrain, options.pretrain, resources=options.to_train, percepts=percepts, statistics=statistics
        )
    plan.add(forecast, ForecastConfig(), encoders=[encoder], percepts=percepts, statistics=statistics)
    plan.add(visualize, VisualizeConfig(), encoder=encoder, percepts=percepts)
    if options.tables:
        _demo_tables(plan, options, encoder, percepts, statistics)
        return plan

    def arm(name: str, config: FinetuneConfig, start: Node | None = None) -> Node:
        return plan.add(
            finetune, config, name=name, resources=run, percepts=percepts, statistics=statistics, encoder=start
        )

    arms = [
        arm("finetune frame", options.single_frame),
        arm("finetune scratch", options.scratch),
        arm("finetune pretrained", options.pretrained, encoder),
    ]
    plan.add(evaluate, EvaluateConfig(), resources=run, classifiers=arms, percepts=percepts)
    return plan


DEMO_CURVE = (1, 2, 4, 10, 20, 50)
DEMO_CLIPS_PER_CLASS = 60
"""To draw the curve's samplings from, so that those of 50 differ."""
DEMO_CHOICES = SelectionConfig(learning_rates=(3e-4, 1e-3), num_checks=4, validation_fraction=0.15)
"""Of every arm, so that no row wins by settings that suit it; of 60 clips a class 9 are held out."""


def _with_clips_to_train_on(options: DemoOptions) -> SynthesizeConfig:
    return replace(options.corpus, num_train=max(options.corpus.num_train, DEMO_CLIPS_PER_CLASS * len(MOTIONS)))


def _demo_tables(plan: Plan, options: DemoOptions, composite: Node, percepts: Node, statistics: Node) -> None:
    """The other five models, and an arm a row. More labels train for more steps; settings are chosen on validation."""
    others: list[Model] = [name for name in MODELS if name != "composite"]
    nodes = pretrain_models(plan, others, options.pretrain, options.to_train, percepts=percepts, statistics=statistics)
    encoders: dict[str, Node] = {"composite": composite}
    encoders.update(zip(others, nodes, strict=True))
    arms = (options.single_frame, options.scratch, options.pretrained)
    frame, scratch, pretrained = (
        replace(
            arm,
            num_epochs=15,
            num_full_samplings=10,
            selection=arm.selection if arm.selection.is_on else DEMO_CHOICES,
        )
        for arm in arms
    )
    add_arms(
        plan,
        configs=ArmConfigs(single_frame=frame, scratch=scratch, pretrained=pretrained),
        measured=Measured(tables=("1", "3", "curve"), small=4, curve=DEMO_CURVE),
        encoders=encoders,
        percepts=percepts,
        statistics=statistics,
        splits=None,
        resources=options.on_cpus,
    )


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
    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()
    """Of every model; the decoders are those of `models`."""
    forecast: ForecastConfig = ForecastConfig()


def youtube(options: YoutubeOptions) -> Plan:
    """Representations of unlabelled video."""
    plan = Plan("youtube")
    run, run_gpu = options.on_cpus, options.on_devices
    index = add_index(plan, IngestConfig(videos=options.videos, held_out=options.held_out), run)
    percepts = plan.add(extract, options.extract, resources=run_gpu, index=index)
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


@dataclass(frozen=True, kw_only=True)
class MovingMNISTOptions(RunOptions):
    """Two bouncing digits, ten frames in, ten to predict: the paper's Table 2, open loop on 10,000 fixed sequences."""

    models: tuple[Model, ...] = ("composite",)
    """Any of the paper's six."""
    digits: DigitsConfig = DigitsConfig()
    pretrain: PretrainConfig = PretrainConfig(
        num_frames_in=10,
        num_frames_out=10,
        loss="bernoulli",
        num_units=384,
        forget_bias=1.0,
        precision="bfloat16",
        start_at_mean=True,
        batch_size=64,
        num_steps=2800,
        optimizer=OptimizerConfig(learning_rate=3e-3, final_fraction=0.02, num_warmup_steps=80, beta2=0.95),
        validate_every_steps=400,
        max_validation_batches=5,
        checkpoint_every_steps=400,
    )
    """Of every model; the decoders are those of `models`. About eight minutes each on two cores."""
    num_test_sequences: int = 10_000
    """How many of the fixed test sequences to score."""
    train_threads: int = 2


def moving_mnist(options: MovingMNISTOptions) -> Plan:
    """The models of Table 2 on bouncing digits."""
    plan = Plan("moving-mnist")
    made = plan.add(digits, options.digits)
    encoders = pretrain_models(plan, options.models, options.pretrain, options.to_train, digits=made)
    score = ScorePixelsConfig(num_test_sequences=options.num_test_sequences)
    plan.add(score_pixels, score, resources=options.on_devices, encoders=encoders, digits=made)
    plan.add(visualize, VisualizeConfig(), encoder=encoders[0], digits=made)
    return plan


@dataclass(frozen=True, kw_only=True)
class PatchesOptions(RunOptions):
    """32x32 colour patches of videos of your own: sixteen frames in and reconstructed, thirteen predicted."""

    videos: tuple[str, ...]
    """Folders, archives (.zip, .tar*, .rar), globs, files, manifests (.txt, .csv, .jsonl, .parquet), bucket URLs."""
    models: tuple[Model, ...] = ("composite",)
    """Any of the paper's six."""
    cut: CutConfig = CutConfig(patches_per_video=256)
    pretrain: PretrainConfig = PretrainConfig(num_units=256, forget_bias=1.0, batch_size=32)
    """Of every model; the decoders are those of `models`."""
    num_test_sequences: int = 10_000
    """How many test patches to score, at most."""
    train_threads: int = 2


def patches(options: PatchesOptions) -> Plan:
    """The models of Table 2 on natural patches."""
    plan = Plan("patches")
    index = add_index(plan, IngestConfig(videos=options.videos), options.on_cpus)
    made = plan.add(cut, options.cut, resources=options.on_cpus, index=index)
    encoders = pretrain_models(plan, options.models, options.pretrain, options.to_train, patches=made)
    score = ScorePixelsConfig(num_test_sequences=options.num_test_sequences)
    plan.add(score_pixels, score, resources=options.on_devices, encoders=encoders, patches=made)
    plan.add(visualize, VisualizeConfig(), encoder=encoders[0], patches=made)
    return plan


@dataclass(frozen=True)
class Recipe:
    """A name on the command line."""

    name: str
    summary: str
    options: type[Any]
    build: Callable[[Any], Plan]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("demo", "moving digits on photographs: from video files to a comparison table", DemoOptions, demo),
        Recipe("youtube", "unlabelled videos of your own: percepts and a pretrained encoder", YoutubeOptions, youtube),
        Recipe("moving-mnist", "two bouncing digits and their future: Table 2", MovingMNISTOptions, moving_mnist),
        Recipe("ucf101", "action recognition on UCF-101 by its official splits", UCF101Options, ucf101),
        Recipe("hmdb51", "action recognition on HMDB-51 by its official splits", HMDB51Options, hmdb51),
        Recipe("patches", "32x32 colour patches of videos of your own: Table 2", PatchesOptions, patches),
    )
}
