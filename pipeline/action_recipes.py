"""THE DAGs of action recognition by official splits: UCF-101 and HMDB-51.

(unpack ─) ingest ─┬─ split ──────────────────┐
                   └─ extract ─ standardize ──┴─ finetune ─ evaluate

`standardize` looks at clips that none of the chosen splits tests; `split` holds some training clips out for choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.errors import DataSetError
from pipeline.options import RunOptions
from pipeline.plan import Node, Plan
from pipeline.video_recipes import add_index
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig
from stages.split import DATA_SETS, DataSetKey, SplitConfig, split
from stages.standardize import StandardizeConfig, standardize


@dataclass(frozen=True, kw_only=True)
class ActionOptions(RunOptions):
    """What the recipes of the two data sets have in common."""

    dataset: ClassVar[DataSetKey]
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
    extract: ExtractConfig = ExtractConfig()


@dataclass(frozen=True, kw_only=True)
class UCF101Options(ActionOptions):
    """UCF-101: 13,320 clips of 101 actions, three official splits."""

    dataset: ClassVar[DataSetKey] = "ucf101"


@dataclass(frozen=True, kw_only=True)
class HMDB51Options(ActionOptions):
    """HMDB-51: 6,766 clips of 51 actions, three official splits of 70 training and 30 test clips a class."""

    dataset: ClassVar[DataSetKey] = "hmdb51"


@dataclass(frozen=True)
class Prepared:
    """The nodes that everything after them reads."""

    splits: Node
    percepts: Node
    statistics: Node


def prepare(plan: Plan, options: ActionOptions) -> Prepared:
    """From clips and lists to percepts, statistics and sides.

    Raises:
        DataSetError: no clips or no lists were given; it says what to put where.
    """
    data, _ = DATA_SETS[options.dataset]
    if not (options.videos and options.lists):
        lacks = " and ".join(flag for flag in ("videos", "lists") if not getattr(options, flag))
        raise DataSetError(f"{data.name} needs --videos (its clips) and --lists; {lacks} missing", data.instructions)
    index = add_index(plan, IngestConfig(videos=options.videos), options.on_cpus)
    config = SplitConfig(
        dataset=options.dataset,
        lists=options.lists,
        allow_missing=options.allow_missing,
        validation_fraction=options.validation_fraction,
    )
    splits = plan.add(split, config, index=index)
    percepts = plan.add(extract, options.extract, resources=options.on_devices, index=index)
    statistics = plan.add(standardize, StandardizeConfig(splits=options.splits), percepts=percepts, splits=splits)
    return Prepared(splits, percepts, statistics)


def ucf101(options: UCF101Options) -> Plan:
    """UCF-101 by its official splits."""
    return _recognition(options)


def hmdb51(options: HMDB51Options) -> Plan:
    """HMDB-51 by its official splits."""
    return _recognition(options)


def _recognition(options: ActionOptions) -> Plan:
    plan = Plan(options.dataset)
    prepare(plan, options)
    return plan
