"""The options and the DAG that recipes ucf101 and hmdb51 share: action recognition by official splits.

(unpack ─) select_clips ─ ingest ─┬─ assign_splits ──────────┐
                                  └─ extract ─ standardize ──┴─ finetune ─ evaluate

`select_clips` finds clips by their names, so that what is missing is known before anything is read. `standardize` looks
at clips that none of the chosen splits tests; `assign_splits` holds some training clips out for choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from pipeline.core.errors import ConfigError, DataSetError
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.arms import COMPOSITE, SINGLE_FRAME, ArmConfigs, Arms, Measured, Table, add_arms
from pipeline.recipes.existing_models import PretrainedNodes, given_models
from pipeline.recipes.model_variants import Model, pretrain_models
from pipeline.recipes.run_options import RunOptions
from pipeline.recipes.video_inputs import add_unpacked, within_limits
from stages.assign_splits import AssignSplitsConfig, assign_splits
from stages.datasets.action_sets import DATA_SETS, ActionSetConfig, DataSetKey
from stages.extract import ExtractConfig, extract
from stages.finetune import FinetuneConfig
from stages.finetuning.arm import EnsembleTrainingConfig, SelectionConfig
from stages.fuse import FuseConfig, fuse
from stages.ingest import IngestConfig, ingest
from stages.models.config import ClassifierConfig
from stages.near_duplicates import NearDuplicatesConfig, near_duplicates
from stages.pretrain import PretrainConfig
from stages.pretraining.config import OptimizerConfig
from stages.select_clips import SelectClipsConfig, select_clips
from stages.standardize import StandardizeConfig, standardize
from stages.video.container import Limits

ACTION_LSTM = FinetuneConfig(
    arm="LSTM",
    classifier=ClassifierConfig(num_units=2048, dropout=0.5),
    training=EnsembleTrainingConfig(optimizer=OptimizerConfig(num_warmup_steps=20), batch_clips=128, num_epochs=20),
    selection=SelectionConfig(learning_rates=(1e-4, 3e-4, 1e-3), dropouts=(0.5, 0.8), num_checks=4),
)


@dataclass(frozen=True, kw_only=True)
class ActionOptions(RunOptions):
    """What the recipes of the two data sets have in common."""

    dataset: ClassVar[DataSetKey]
    small: ClassVar[int]
    """Labelled clips a class of Table 3's small variant."""
    videos: tuple[str, ...] = ()
    """The clips: folders, archives, globs, manifests or bucket URLs. Their names decide what they are."""
    lists: str = ""
    """Folder or archive with the official list files."""
    allow_missing: bool = False
    """Go on with the clips that are there; every table then says how many those are."""
    splits: tuple[int, ...] = (1, 2, 3)
    """Official splits to run."""
    validation_fraction: float = 0.1
    """Of each class's training clips, held out for choices; in whole sources."""
    limits: Limits = Limits()
    """The bounds beyond which a video is rejected, when it is indexed and when it is decoded."""
    extract: ExtractConfig = ExtractConfig()
    tables: tuple[Table, ...] = ("1", "3", "curve")
    """Any of 1, 3, 4 and curve. 4 needs --flow-percepts; none: prepare percepts and sides, and train nothing."""
    pretrained: tuple[str, ...] = ()
    """Models of the store to start from: keys (pretrain-...) or MLflow models (models:/m-..., models:/NAME@ALIAS), one
    of each kind."""
    unlabelled: tuple[str, ...] = ()
    """Or videos to pretrain on first, as recipe youtube does: folders, globs, manifests or bucket URLs."""
    models: tuple[Model, ...] = ("composite",)
    """With --unlabelled: any of the paper's six, each a row of Table 3."""
    pretrain: PretrainConfig = PretrainConfig()
    """With --unlabelled: of every model; the decoders are those of `models`."""
    flow_percepts: str = ""
    """Table 4: key (extract-...) of a second stream of percepts of the same clips, such as optical flow's."""
    flow_pretrained: tuple[str, ...] = ()
    """Table 4: the composite of that stream, as `pretrained`."""
    curve: tuple[int, ...] = (1, 2, 4, 10, 20, 50)
    """Labelled clips a class of the label curve."""
    single_frame: FinetuneConfig = FinetuneConfig(
        arm=SINGLE_FRAME,
        classifier=ClassifierConfig(model="frame"),
        training=EnsembleTrainingConfig(batch_clips=128, num_epochs=20),
        selection=SelectionConfig(learning_rates=(1e-3, 3e-3), weight_decays=(0.01, 0.3, 3.0), num_checks=4),
    )
    """Splits, label counts and the arm's name are those of the tables."""
    scratch: FinetuneConfig = ACTION_LSTM
    """As single_frame."""
    finetuned: FinetuneConfig = ACTION_LSTM
    """Of every arm that starts from a pretrained model. These take its number of units and layers, and so does the
    LSTM that they are compared with."""


@dataclass(frozen=True)
class Prepared:
    """The nodes that everything after them reads."""

    splits: Node
    percepts: Node


def prepare(plan: Plan, options: ActionOptions) -> Prepared:
    """From clips and lists to percepts and sides.

    Raises:
        DataSetError: no clips or no lists were given; it says what to put where.
    """
    data, _ = DATA_SETS[options.dataset]
    if not (options.videos and options.lists):
        lacks = " and ".join(flag for flag in ("videos", "lists") if not getattr(options, flag))
        raise DataSetError(f"{data.name} needs --videos (its clips) and --lists; {lacks} missing", data.instructions)
    unpacked, others = add_unpacked(plan, options.videos)
    data_config = ActionSetConfig(dataset=options.dataset, lists=options.lists, allow_missing=options.allow_missing)
    clips = plan.add(select_clips, SelectClipsConfig(data=data_config, videos=others), unpacked=unpacked)
    index = plan.add(ingest, IngestConfig(limits=options.limits), resources=options.on_cpus, corpus=clips)
    config = AssignSplitsConfig(data=data_config, validation_fraction=options.validation_fraction)
    splits = plan.add(assign_splits, config, index=index)
    decoding = within_limits(options.extract, options.limits)
    percepts = plan.add(extract, decoding, resources=options.on_devices, index=index)
    return Prepared(splits, percepts)


def build(options: ActionOptions) -> Plan:
    """Builds the plan of either data set."""
    plan = Plan(options.dataset)
    prepared = prepare(plan, options)
    splits, percepts = prepared.splits, prepared.percepts
    source = _pretrained(plan, options)
    if source is None:
        statistics = plan.add(standardize, StandardizeConfig(splits=options.splits), percepts=percepts, splits=splits)
    else:
        statistics = source.statistics
    if not options.tables:
        return plan
    encoders = {} if source is None else source.encoders
    size = None if source is None else source.size
    arms = _arms(plan, options, encoders, percepts, statistics, splits, size=size)
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
        _table_4(plan, options, prepared, arms)
    return plan


def _pretrained(plan: Plan, options: ActionOptions) -> PretrainedNodes | None:
    """Models that the store has, or that are made first; None where all arms learn from scratch."""
    if options.pretrained and options.unlabelled:
        raise ConfigError("give --pretrained or --unlabelled: models that are there, or videos to make them from")
    if options.pretrained:
        return given_models(plan, options.pretrained, store_uri=options.store, tracking_uri=options.tracking_uri)
    if not options.unlabelled:
        return None
    index = plan.add(
        ingest,
        IngestConfig(videos=options.unlabelled, limits=options.limits),
        name="ingest unlabelled",
        resources=options.on_cpus,
    )
    devices = options.on_devices
    decoding = within_limits(options.extract, options.limits)
    percepts = plan.add(extract, decoding, name="extract unlabelled", resources=devices, index=index)
    statistics = plan.add(
        standardize, StandardizeConfig(parts=("unlabelled",)), name="standardize unlabelled", percepts=percepts
    )
    nodes = pretrain_models(plan, options.models, options.pretrain, devices, percepts=percepts, statistics=statistics)
    encoders: dict[str, Node] = {}
    encoders.update(zip(options.models, nodes, strict=True))
    size = (options.pretrain.model.num_units, options.pretrain.model.num_layers)
    return PretrainedNodes(encoders=encoders, size=size, statistics=statistics, percepts=percepts)


def _arms(
    plan: Plan,
    options: ActionOptions,
    encoders: Mapping[str, Node],
    percepts: Node,
    statistics: Node,
    splits: Node,
    *,
    size: tuple[int, int] | None,
    tables: tuple[Table, ...] | None = None,
    stream: str = "",
) -> Arms:
    fewer = options.allow_missing
    single_frame, scratch, finetuned = (
        replace(config, allow_fewer=fewer or config.allow_fewer)
        for config in (options.single_frame, options.scratch, options.finetuned)
    )
    if size is not None:
        scratch, finetuned = (
            replace(config, classifier=replace(config.classifier, num_units=size[0], num_layers=size[1]))
            for config in (scratch, finetuned)
        )
    return add_arms(
        plan,
        configs=ArmConfigs(single_frame=single_frame, scratch=scratch, pretrained=finetuned),
        measured=Measured(tables=tables or options.tables, small=options.small, curve=options.curve),
        encoders=encoders,
        percepts=percepts,
        statistics=statistics,
        splits=splits,
        numbers=options.splits,
        resources=options.on_devices,
        stream=stream,
    )


def _table_4(plan: Plan, options: ActionOptions, prepared: Prepared, rgb: Arms) -> None:
    """The composite on a second stream of percepts, and both together."""
    if not (options.flow_percepts and options.flow_pretrained and COMPOSITE in rgb.finetuned):
        raise ConfigError(
            "Table 4 needs a composite of each stream: --pretrained or --unlabelled, --flow-percepts and "
            "--flow-pretrained; or leave 4 out of --tables"
        )
    flow = given_models(
        plan,
        options.flow_pretrained,
        store_uri=options.store,
        tracking_uri=options.tracking_uri,
        stream="flow ",
    )
    percepts = plan.add_existing(extract, options.flow_percepts, name="flow extract")
    composite = {"composite": flow.encoders["composite"]} if "composite" in flow.encoders else {}
    arms = _arms(
        plan,
        options,
        composite,
        percepts,
        flow.statistics,
        prepared.splits,
        size=flow.size,
        tables=("1", "4"),
        stream="flow ",
    )
    plan.add(
        fuse,
        FuseConfig(),
        scores=[rgb.scores, arms.scores],
        classifiers=[rgb.finetuned[COMPOSITE], arms.finetuned[COMPOSITE]],
    )
