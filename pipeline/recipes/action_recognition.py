"""Recipes ucf101 and hmdb51: action recognition by official splits.

(unpack ─) select_clips ─ ingest ─┬─ assign_splits ──────────┐
                                  └─ extract ─ standardize ──┴─ finetune ─ evaluate

`select_clips` finds clips by their names, so that what is missing is known before anything is read. `standardize` looks
at clips that none of the chosen splits tests; `assign_splits` holds some training clips out for choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from pipeline.core.errors import ConfigError, DataSetError
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.agreement import check_alike, check_labels, check_loss, check_selection
from pipeline.recipes.arms import COMPOSITE, SINGLE_FRAME, ArmConfigs, Arms, Measured, Table, add_arms
from pipeline.recipes.existing_models import PretrainedNodes, add_existing_models
from pipeline.recipes.model_variants import (
    ON_GPUS,
    PAPER_PERCEPTS,
    PASSES_OVER_A_CORPUS,
    PUBLISHED,
    PUBLISHED_CLASSIFIER,
    REFUSED,
    Model,
    pretrain_models,
    variant,
)
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_checks import WindowCheck
from pipeline.recipes.video_inputs import ONE_LIMITS, VideoOptions, add_unpacked, within_limits
from stages.datasets.official.action_sets import DATA_SETS, ActionSetConfig, DataSetKey
from stages.extract import ExtractConfig, extract
from stages.finetune import FinetuneConfig
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.fuse import FuseConfig, fuse
from stages.ingest import IngestConfig, ingest
from stages.models.config import ClassifierConfig
from stages.near_duplicates import NearDuplicatesConfig, near_duplicates
from stages.official_splits import AssignSplitsConfig, SelectClipsConfig, assign_splits, select_clips
from stages.pretrain import PretrainConfig
from stages.pretraining.config import OptimizerConfig
from stages.standardize import StandardizeConfig, standardize

ACTION_LSTM = FinetuneConfig(
    arm="LSTM",
    classifier=ClassifierConfig(num_units=2048, dropout=0.5),
    training=EnsembleTrainingConfig(optimizer=OptimizerConfig(num_warmup_steps=20), batch_clips=128, num_epochs=20),
    selection=SelectionConfig(learning_rates=(1e-4, 3e-4, 1e-3), dropouts=(0.5, 0.8), num_checks=4),
)

NEEDED_BY_TABLE_4: Final = (
    "Table 4 needs a composite of each stream: --pretrained or --unlabelled, --flow-percepts and --flow-pretrained; "
    "or leave 4 out of --tables"
)


@dataclass(frozen=True, kw_only=True)
class ActionOptions(VideoOptions):
    """Options that the recipes of the two data sets share."""

    dataset: ClassVar[DataSetKey]
    small: ClassVar[int]
    """The number of labelled clips a class of Table 3's small variant."""
    videos: tuple[str, ...] = ()
    """Clips of the data set: folders, archives, globs, lists or bucket URLs. They are known by their names."""
    lists: str = ""
    """Folder or archive with the official list files of the data set."""
    allow_missing: bool = False
    """Go on with the clips that are there, and say in every table how many those are."""
    splits: tuple[int, ...] = (1, 2, 3)
    """Numbers of the official splits to run."""
    validation_fraction: float = 0.1
    """Share of each class's training clips that is held out, in whole sources, to choose settings on."""
    extract: ExtractConfig = ExtractConfig()
    tables: tuple[Table, ...] = ("1", "3", "curve")
    """Tables to measure, any of 1, 3, 4 and curve. 4 needs --flow-percepts. With none, percepts and splits are prepared
    and nothing is trained."""
    pretrained: tuple[str, ...] = ()
    """Models of the store to start from, as many of each kind: keys (pretrain-...) or MLflow models (models:/m-...,
    models:/NAME@ALIAS)."""
    unlabelled: tuple[str, ...] = ()
    """Videos to pretrain on first, as recipe youtube does: folders, globs, lists or bucket URLs."""
    models: tuple[Model, ...] = ("composite",)
    """Models to train with --unlabelled, any of the paper's six; each is a row of Table 3."""
    pretrain: PretrainConfig = PASSES_OVER_A_CORPUS
    """Settings of every model of --unlabelled; its decoders are those of --models."""
    num_encoders: int = 1
    """Each of --models is pretrained so many times, from seeds that follow each other, and every arm is measured with
    all of them: differences then hold for a way of pretraining and not for one encoder. Give at least 3."""
    flow_percepts: str = ""
    """Key (extract-...) of a second stream of percepts of the same clips, such as optical flow's, for Table 4."""
    flow_pretrained: tuple[str, ...] = ()
    """Composite of the stream of --flow-percepts for Table 4, named as in --pretrained."""
    arrow: bool = False
    """Each class is there a second time, its clips played backwards: what pools frames is then at chance between a
    class and its reversal. The figures are beside no published ones, and Table 4 is not measured with it."""
    curve: tuple[int, ...] = (1, 2, 4, 10, 20, 50)
    """Numbers of labelled clips a class at which the label curve is measured."""
    single_frame: FinetuneConfig = FinetuneConfig(
        arm=SINGLE_FRAME,
        classifier=ClassifierConfig(model="frame"),
        training=EnsembleTrainingConfig(batch_clips=128, num_epochs=20),
        selection=SelectionConfig(learning_rates=(1e-3, 3e-3), weight_decays=(0.01, 0.3, 3.0), num_checks=4),
    )
    """Training of the single-frame classifiers."""
    scratch: FinetuneConfig = ACTION_LSTM
    """Training of the LSTM classifiers that start from random weights."""
    finetuned: FinetuneConfig = ACTION_LSTM
    """Training of the classifiers that start from a pretrained model. They take its number of units and layers, and so
    does the LSTM from random weights that they are compared with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.validation_fraction <= 0.5:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; give 0 to 0.5")
        if not self.splits or not set(self.splits) <= {1, 2, 3} or len(set(self.splits)) < len(self.splits):
            raise ConfigError(f"splits is {self.splits}; give any of 1, 2 and 3, each once")
        if "curve" in self.tables and (not self.curve or min(self.curve) < 1):
            raise ConfigError(f"curve is {self.curve}; give numbers of at least 1, or no curve in --tables")
        if self.num_encoders < 1:
            raise ConfigError(f"num_encoders is {self.num_encoders}; give at least 1")


def _prepare(plan: Plan, options: ActionOptions) -> tuple[Node, Node]:
    """Adds the nodes from clips and lists on; returns those of splits and percepts.

    Raises:
        DataSetError: no clips or no lists were given; it says what to put where.
    """
    data, _ = DATA_SETS[options.dataset]
    if not (options.videos and options.lists):
        lacks = " and ".join(flag for flag in ("videos", "lists") if not getattr(options, flag))
        raise DataSetError(f"{data.name} needs --videos (its clips) and --lists; {lacks} missing", data.instructions)
    unpacked, others = add_unpacked(plan, options.videos, options.archive_limits)
    data_config = ActionSetConfig(dataset=options.dataset, lists=options.lists, allow_missing=options.allow_missing)
    clips = plan.add(
        select_clips,
        SelectClipsConfig(data=data_config, videos=others, list_rules=options.list_rules),
        unpacked=unpacked,
    )
    arms = [options.scratch]
    arms += [options.single_frame] if {"1", "curve"} & set(options.tables) else []
    arms += [options.finetuned] if options.pretrained or options.unlabelled else []
    check = WindowCheck.to_classify(arms, options.extract) if options.tables else None
    index = plan.add(ingest, IngestConfig(limits=options.limits), resources=options.on_cpus, corpus=clips)
    index = plan.replaced(index, check=check)
    config = AssignSplitsConfig(data=data_config, validation_fraction=options.validation_fraction)
    splits = plan.add(assign_splits, config, index=index)
    decoding = within_limits(options.extract, options.limits)
    percepts = plan.add(extract, decoding, resources=options.on_devices, index=index)
    return splits, percepts


def build(options: ActionOptions) -> Plan:
    """Builds the plan of either data set. Raises UsageError where options do not fit together."""
    if options.arrow and "4" in options.tables:
        raise ConfigError("--arrow does not go with table 4: leave 4 out of --tables")
    plan = Plan(options.dataset)
    _check(options)
    splits, percepts = _prepare(plan, options)
    source = _pretrained(plan, options)
    if source is None:
        statistics = plan.add(standardize, StandardizeConfig(splits=options.splits), percepts=percepts, splits=splits)
    else:
        statistics = source.statistics
    if not options.tables:
        return plan
    arms = _arms(plan, options, source, percepts=percepts, statistics=statistics, splits=splits)
    if source is not None:
        plan.add(
            near_duplicates,
            NearDuplicatesConfig(),
            pretraining=source.percepts,
            percepts=percepts,
            statistics=source.statistics,
            splits=splits,
        )
    if "4" in options.tables:
        _table_4(plan, options, splits, arms)
    return plan


def _check(options: ActionOptions) -> None:
    """Raises ConfigError for settings of two stages that do not fit together."""
    if options.unlabelled:
        check_loss(options.pretrain)
    if not options.tables:
        return
    has_source = options.pretrained or options.unlabelled
    if "4" in options.tables and not (options.flow_percepts and options.flow_pretrained and has_source):
        raise ConfigError(NEEDED_BY_TABLE_4)
    arms = {"single-frame": options.single_frame, "scratch": options.scratch, "finetuned": options.finetuned}
    check_alike(arms)
    if not options.allow_missing:
        check_selection(arms, options.validation_fraction)
    if options.videos and options.lists and not options.allow_missing:
        data = ActionSetConfig(dataset=options.dataset, lists=options.lists)
        curve = options.curve if "curve" in options.tables else ()
        check_labels(data, options.splits, curve, options.validation_fraction, "curve")


def _pretrained(plan: Plan, options: ActionOptions) -> PretrainedNodes | None:
    """Returns models that the store has, or that are made first; None where all arms learn from scratch."""
    if options.pretrained and options.unlabelled:
        raise ConfigError("give --pretrained or --unlabelled: models that are there, or videos to make them from")
    if options.pretrained:
        return add_existing_models(plan, options.pretrained, store_uri=options.store, tracking_uri=options.tracking_uri)
    if not options.unlabelled:
        return None
    models = [variant(options.pretrain, model).model for model in options.models]
    index = plan.add(
        ingest,
        IngestConfig(videos=options.unlabelled, limits=options.limits, list_rules=options.list_rules),
        name="ingest unlabelled",
        resources=options.on_cpus,
    )
    index = plan.replaced(index, check=WindowCheck.to_pretrain(models, options.pretrain, options.extract))
    devices = options.on_devices
    decoding = within_limits(options.extract, options.limits)
    percepts = plan.add(extract, decoding, name="extract unlabelled", resources=devices, index=index)
    statistics = plan.add(
        standardize, StandardizeConfig(parts=("unlabelled",)), name="standardize unlabelled", percepts=percepts
    )
    encoders = pretrain_models(
        plan,
        options.models,
        options.pretrain,
        options.to_train,
        numbers=range(options.num_encoders),
        percepts=percepts,
        statistics=statistics,
    )
    size = (options.pretrain.model.num_units, options.pretrain.model.num_layers)
    return PretrainedNodes(encoders=encoders, size=size, statistics=statistics, percepts=percepts)


def _arms(
    plan: Plan,
    options: ActionOptions,
    source: PretrainedNodes | None,
    *,
    percepts: Node,
    statistics: Node,
    splits: Node,
    tables: tuple[Table, ...] | None = None,
    stream: str = "",
) -> Arms:
    fewer = options.allow_missing
    single_frame, scratch, finetuned = (
        replace(config, allow_fewer=fewer or config.allow_fewer, arrow=options.arrow)
        for config in (options.single_frame, options.scratch, options.finetuned)
    )
    if source is not None:
        num_units, num_layers = source.size
        scratch, finetuned = (
            replace(config, classifier=replace(config.classifier, num_units=num_units, num_layers=num_layers))
            for config in (scratch, finetuned)
        )
    return add_arms(
        plan,
        configs=ArmConfigs(single_frame=single_frame, scratch=scratch, pretrained=finetuned),
        measured=Measured(tables=tables or options.tables, small=options.small, curve=options.curve),
        encoders={} if source is None else source.encoders,
        numbers=options.splits,
        resources=options.on_devices,
        stream=stream,
        percepts=percepts,
        statistics=statistics,
        splits=splits,
    )


def _table_4(plan: Plan, options: ActionOptions, splits: Node, rgb: Arms) -> None:
    """Adds the composite on a second stream of percepts, and both streams together."""
    if COMPOSITE not in rgb.finetuned:
        raise ConfigError(NEEDED_BY_TABLE_4)
    flow = add_existing_models(
        plan, options.flow_pretrained, store_uri=options.store, tracking_uri=options.tracking_uri, stream="flow "
    )
    percepts = plan.add_existing(extract, options.flow_percepts, name="flow extract")
    composite = replace(flow, encoders={name: nodes for name, nodes in flow.encoders.items() if name == "composite"})
    inputs = {"percepts": percepts, "statistics": flow.statistics, "splits": splits}
    arms = _arms(plan, options, composite, tables=("1", "4"), stream="flow ", **inputs)
    plan.add(
        fuse,
        FuseConfig(),
        scores=[rgb.scores, arms.scores],
        classifiers=[rgb.finetuned[COMPOSITE], arms.finetuned[COMPOSITE]],
    )


def _recipe(options: type[ActionOptions]) -> Recipe:
    """Returns the recipe of one of the data sets."""
    name = options.dataset
    arms = {"single-frame": "frame", "scratch": "lstm", "finetuned": "lstm"}
    decided = {
        "arm": "it is the name of its row",
        "splits": "--splits decides it",
        "labels-per-class": "--tables and --curve decide it",
        "selection.validation-fraction": "--validation-fraction decides it",
        "part": "the splits decide it",
        "arrow": "--arrow decides it",
    }
    return Recipe(
        name=name,
        options=options,
        build=build,
        shown={
            "clips": ("videos", "lists", "allow-missing"),
            "what is measured": ("tables", "splits"),
            "what is learned": (
                "pretrained",
                "unlabelled",
                "models",
                "pretrain.num-units",
                "pretrain.num-passes",
                "finetuned.num-epochs",
            ),
        },
        examples=(
            f"percepts run {name} --videos clips/ --lists lists/ --pretrained pretrain-<key>",
            f"percepts run {name} --videos clips/ --lists lists/ --unlabelled more/ --preset laptop",
        ),
        presets=PRESETS,
        refused=REFUSED
        | ONE_LIMITS
        | {f"{arm}.{name}": reason for arm in arms for name, reason in decided.items()}
        | {f"{arm}.model": f"its row is that of the {model} model" for arm, model in arms.items()}
        | {f"finetuned.{name}": "the pretrained model decides it" for name in ("num-units", "num-layers")},
        only_with=dict.fromkeys(("models", "num-encoders", "pretrain."), "unlabelled"),
        not_with={f"scratch.{name}": ("pretrained", "unlabelled") for name in ("num-units", "num-layers")}
        | {"unlabelled": ("pretrained",)},
    )


PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "laptop": {
        "extract.decode.rate-fps": 10,
        "pretrain.num-units": 256,
        "scratch.num-units": 256,
    },
    "gpu": ON_GPUS
    | {
        "pretrain.num-layers": 2,
        "pretrain.batch-size": 512,
        "scratch.num-layers": 2,
        "single-frame.precision": "bfloat16",
        "scratch.precision": "bfloat16",
        "finetuned.precision": "bfloat16",
    },
    "paper": PUBLISHED
    | PAPER_PERCEPTS
    | ON_GPUS
    | {"scratch.num-layers": 2}
    | {f"{arm}.{name}": value for arm in ("scratch", "finetuned") for name, value in PUBLISHED_CLASSIFIER.items()},
}
"""The sizes of both data sets for a kind of machine."""


@dataclass(frozen=True, kw_only=True)
class UCF101Options(ActionOptions):
    """UCF-101: 13,320 clips of 101 actions, three official splits."""

    dataset: ClassVar[DataSetKey] = "ucf101"
    small: ClassVar[int] = 10


@dataclass(frozen=True, kw_only=True)
class HMDB51Options(ActionOptions):
    """HMDB-51: 6,766 clips of 51 actions, three official splits of 70 training and 30 test clips a class."""

    dataset: ClassVar[DataSetKey] = "hmdb51"
    small: ClassVar[int] = 4


UCF101, HMDB51 = _recipe(UCF101Options), _recipe(HMDB51Options)
