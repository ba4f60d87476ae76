"""Recipe demo: moving digits on photographs, from video files to a comparison table.

synthesize ─ ingest ─ extract ─ standardize ─ pretrain ─┬─ forecast, visualize
                         └── finetune (3 arms) ─────────┴─ evaluate
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.core.errors import ConfigError
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.agreement import check_alike, check_corpus, check_loss, sized
from pipeline.recipes.arms import ArmConfigs, Measured, add_arms
from pipeline.recipes.model_variants import MODELS, Model, encoder_suffix, of_encoder, pretrain_models
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_checks import WindowCheck
from pipeline.recipes.video_inputs import ONE_LIMITS, VideoOptions, add_index, within_limits
from stages.convnets.config import ConvnetConfig
from stages.datasets.synthetic_clips import MOTIONS, SynthesizeConfig
from stages.evaluate import EvaluateConfig, evaluate
from stages.extract import ExtractConfig, extract
from stages.figures.config import VisualizeConfig
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.forecast import ForecastConfig, forecast
from stages.import_encoder import ImportEncoderConfig, import_encoder, size_of_encoder
from stages.models.config import ClassifierConfig, CompositeConfig
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import OptimizerConfig, TrainingConfig
from stages.standardize import StandardizeConfig, standardize
from stages.synthesize import synthesize
from stages.video.decode import DecodeConfig
from stages.visualize import visualize

LSTM_CLASSIFIER = FinetuneConfig(
    arm="LSTM from scratch",
    classifier=ClassifierConfig(num_units=128, forget_bias=1.0, dropout=0.5, input_dropout=0.3),
    training=EnsembleTrainingConfig(
        optimizer=OptimizerConfig(learning_rate=1e-3, num_warmup_steps=0), output_learning_rate=1e-2, num_steps=60
    ),
    zero_output=True,
)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(VideoOptions):
    """A corpus of moving digits, encoded here; eight motions to tell apart, half of them the other half reversed."""

    # The demo's figures are those of two workers on cores: a sum of gradients rounds otherwise in another order.
    workers: str = "2"
    gpus_per_worker: float | Literal["auto"] = 0.0
    videos: tuple[str, ...] = ()
    """Further unlabelled videos to learn from: folders, globs, lists, bucket URLs."""
    encoder: str | None = None
    """Finetune this encoder instead of pretraining one: a pretrain artifact, or models:/NAME@ALIAS of the MLflow that
    MLFLOW_TRACKING_URI names. It must have been made from percepts of the same extractor."""
    corpus: SynthesizeConfig = SynthesizeConfig()
    extract: ExtractConfig = ExtractConfig(
        convnet=ConvnetConfig(layer="blocks.1", grid=4, input_px=64),
        decode=DecodeConfig(short_side_px=64, crop_px=64),
        shard_frames=4096,
    )
    pretrain: PretrainConfig = PretrainConfig(
        model=CompositeConfig(num_units=128, forget_bias=1.0),
        training=TrainingConfig(
            num_steps=500,
            optimizer=OptimizerConfig(learning_rate=5e-3, num_warmup_steps=20),
            validate_every_steps=100,
            checkpoint_every_steps=100,
        ),
        window_stride=1,
    )
    single_frame: FinetuneConfig = FinetuneConfig(
        arm="single frame",
        classifier=ClassifierConfig(model="frame"),
        training=EnsembleTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, num_warmup_steps=0), num_steps=40
        ),
    )
    scratch: FinetuneConfig = LSTM_CLASSIFIER
    """Training of the LSTM from random weights. It has the encoder's number of units and layers, if it is given no
    other."""
    pretrained: FinetuneConfig = replace(
        LSTM_CLASSIFIER,
        arm="LSTM pretrained",
        training=replace(
            LSTM_CLASSIFIER.training, optimizer=replace(LSTM_CLASSIFIER.training.optimizer, learning_rate=3e-4)
        ),
    )
    """Training of the LSTM that starts from the encoder, whose number of units and layers it has."""
    arrow: bool = False
    """Each class is there a second time, its clips played backwards. Half of the demo's motions are the other half's
    reversals already, which is measured without this."""
    tables: bool = False
    """Measure all seven rows of Table 3 and the label curve up to 50 clips a class, on a corpus with at least 60 clips
    a class to train on. Every arm's learning rate and when it stops are chosen on some of those; this takes several
    times as long."""
    num_encoders: int | None = None
    """Each model is pretrained so many times, from seeds that follow each other, and every arm is measured with all of
    them: differences then hold for a way of pretraining and not for one encoder. The default is 3 with --tables, and
    else 1."""


def build(options: DemoOptions) -> Plan:
    """Builds the plan: from video files to a comparison table. Raises ConfigError where options do not fit together."""
    _check(options)
    options = _sized(options)
    plan = Plan("demo")
    run, run_gpu = options.on_cpus, options.on_devices
    corpus = plan.add(synthesize, _with_clips_to_train_on(options) if options.tables else options.corpus, resources=run)
    index = add_index(plan, options, options.videos, corpus=corpus, check=_window_check(options))
    percepts = plan.add(extract, within_limits(options.extract, options.limits), resources=run_gpu, index=index)
    statistics = plan.add(standardize, StandardizeConfig(parts=("unlabelled",)), percepts=percepts)
    if options.encoder is not None:
        encoder = plan.add(import_encoder, ImportEncoderConfig(encoder=options.encoder))
    else:
        encoder = plan.add(
            pretrain, options.pretrain, resources=options.to_train, percepts=percepts, statistics=statistics
        )
    plan.add(forecast, ForecastConfig(), encoders=[encoder], percepts=percepts, statistics=statistics)
    plan.add(visualize, VisualizeConfig(), encoder=encoder, percepts=percepts)
    source = {"percepts": percepts, "statistics": statistics}
    if options.tables:
        _demo_tables(plan, options, encoder, **source)
        return plan

    def arm(name: str, config: FinetuneConfig, start: Node | None = None) -> Node:
        config = replace(config, arrow=options.arrow)
        return plan.add(finetune, config, name=name, resources=run, encoder=start, **source)

    encoders = [encoder]
    for number in range(1, options.num_encoders or 1):
        config, name = of_encoder(options.pretrain, number), f"pretrain{encoder_suffix(number)}"
        encoders.append(plan.add(pretrain, config, name=name, resources=options.to_train, **source))
    arms = [
        arm("finetune frame", options.single_frame),
        arm("finetune scratch", options.scratch),
        *(
            arm(f"finetune pretrained{encoder_suffix(number)}", options.pretrained, start)
            for number, start in enumerate(encoders)
        ),
    ]
    judged = EvaluateConfig(arrow=options.arrow, reversals=() if options.arrow else REVERSALS)
    plan.add(evaluate, judged, resources=run, classifiers=arms, percepts=percepts)
    return plan


def _window_check(options: DemoOptions) -> WindowCheck | None:
    if not options.videos or options.encoder is not None:
        return None  # clips that are made were checked before, and an encoder that is given learns from none
    model = options.pretrain.model
    return replace(
        WindowCheck.to_pretrain([model], options.pretrain, options.extract),
        num_frames_scored=model.num_frames_in + model.num_frames_out,
        scored=ForecastConfig().parts,
    )


def _check(options: DemoOptions) -> None:
    options.pretrain.check_feedback()
    if options.num_encoders is not None and options.num_encoders < 1:
        raise ConfigError(f"--num-encoders is {options.num_encoders}; give at least 1")
    check_loss(options.pretrain)
    arms = {"single-frame": options.single_frame, "scratch": options.scratch, "pretrained": options.pretrained}
    if options.tables:
        arms = {flag: _of_tables(arm) for flag, arm in arms.items()}
    elif len({arm.arm for arm in arms.values()}) < len(arms):
        raise ConfigError("two arms have one name: give --single-frame.arm, --scratch.arm and --pretrained.arm apart")
    check_alike(arms)
    if not options.videos:  # a list of videos may bring parts of its own, and longer videos
        corpus = _with_clips_to_train_on(options) if options.tables else options.corpus
        check_corpus(corpus, options.extract.decode, options.pretrain if options.encoder is None else None, arms)


def _sized(options: DemoOptions) -> DemoOptions:
    """Returns the options with both LSTM classifiers of the encoder's size, unless the one from scratch has its own."""
    if options.encoder is None:
        size = (options.pretrain.model.num_units, options.pretrain.model.num_layers)
    else:
        size = size_of_encoder(ImportEncoderConfig(encoder=options.encoder), options.extract)
    default, classifier = LSTM_CLASSIFIER.classifier, options.scratch.classifier
    follows = (classifier.num_units, classifier.num_layers) == (default.num_units, default.num_layers)
    model = replace(options.pretrain.model, num_units=size[0], num_layers=size[1])
    return replace(
        options,
        pretrain=replace(options.pretrain, model=model),
        pretrained=sized(options.pretrained, size, "pretrained", LSTM_CLASSIFIER),
        scratch=sized(options.scratch, size, "scratch", LSTM_CLASSIFIER) if follows else options.scratch,
    )


REVERSALS = tuple(zip(MOTIONS[::2], MOTIONS[1::2], strict=True))
"""Motions that are each other's time reversal."""
DEMO_CURVE = (1, 2, 4, 10, 20, 50)
DEMO_CLIPS_PER_CLASS = 60
"""The number of clips that the samplings of the curve are drawn from, so that those of 50 clips differ."""
DEMO_ENCODERS = 3
"""The number of seeds that each of the six models is pretrained from."""
DEMO_CHOICES = SelectionConfig(learning_rates=(3e-4, 1e-3), num_checks=4, validation_fraction=0.15)
"""The choices of every arm, so that no row wins by settings that suit it; of 60 clips a class 9 are held out."""


def _with_clips_to_train_on(options: DemoOptions) -> SynthesizeConfig:
    return replace(options.corpus, num_train=max(options.corpus.num_train, DEMO_CLIPS_PER_CLASS * len(MOTIONS)))


def _of_tables(arm: FinetuneConfig) -> FinetuneConfig:
    return replace(
        arm,
        training=replace(arm.training, num_epochs=15),
        num_full_samplings=5,
        labels_per_class=DEMO_CURVE,
        selection=arm.selection if arm.selection.is_on else DEMO_CHOICES,
    )


def _demo_tables(plan: Plan, options: DemoOptions, composite: Node, percepts: Node, statistics: Node) -> None:
    """Adds the other five models, and an arm a row. More labels train for more steps."""
    encoders: dict[Model, list[Node]] = {"composite": [composite]}
    source = {"percepts": percepts, "statistics": statistics}
    others: list[Model] = [name for name in MODELS if name != "composite"]
    # Far more trainings than workers: side by side on one worker each they exchange nothing.
    alone, alone_on_cpus = (
        replace(resources, num_workers=1, min_workers=1, is_auto_workers=False)
        for resources in (options.to_train, options.on_cpus)
    )
    encoders |= pretrain_models(plan, others, options.pretrain, alone, numbers=range(1), **source)
    numbers = range(1, 1 if options.encoder is not None else options.num_encoders or DEMO_ENCODERS)
    more = pretrain_models(plan, tuple(MODELS), options.pretrain, alone, numbers=numbers, **source)
    for name, nodes in more.items():
        encoders[name] += nodes
    frame, scratch, pretrained = (
        replace(_of_tables(arm), arrow=options.arrow)
        for arm in (options.single_frame, options.scratch, options.pretrained)
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
        to_finetune=alone_on_cpus,
        reversals=() if options.arrow else REVERSALS,
    )


OF_TABLES = ("arm", "num-epochs", "num-full-samplings", "labels-per-class")
"""The settings of an arm that --tables decides."""

DEMO = Recipe(
    name="demo",
    options=DemoOptions,
    build=build,
    shown={
        "the corpus": ("videos", "corpus.num-unlabelled", "corpus.num-train", "corpus.num-test", "corpus.seed"),
        "what is learned": (
            "tables",
            "encoder",
            "pretrain.num-units",
            "pretrain.num-steps",
            "pretrain.optimizer.learning-rate",
            "pretrained.learning-rate",
        ),
    },
    examples=("percepts run demo", "percepts run demo --tables --store /data/percepts"),
    refused=ONE_LIMITS
    | {
        f"{arm}.{name}": reason
        for arm, model in (("single-frame", "frame"), ("scratch", "lstm"), ("pretrained", "lstm"))
        for name, reason in (
            ("arrow", "--arrow decides it"),
            ("splits", "the corpus has one split"),
            ("model", f"its row is that of the {model} model"),
        )
    },
    not_with={"pretrain.": ("encoder",), "num-encoders": ("encoder",)}
    | {f"pretrain.{name}": ("tables",) for name in ("decoders", "reconstruct-conditional", "predict-conditional")}
    | {f"{arm}.{name}": ("tables",) for arm in ("single-frame", "scratch", "pretrained") for name in OF_TABLES},
)
