"""assign_splits: the official splits of UCF-101 or HMDB-51, matched with the videos of an index, and a check of both.

    data = ActionSetConfig(dataset="ucf101", lists="ucfTrainTestlist/")
    splits = assign_splits(AssignSplitsConfig(data=data), context, index=index)

The check says which of the data set's clips are missing or unreadable, which files hold the same bytes under several
names, and which videos the lists do not name. Unless `allow_missing`, it goes on only with the whole data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Context, stage
from stages.datasets.official.action_sets import ActionSetConfig, missing_line, report_check, some
from stages.datasets.official.clips import DataSet, Match, match
from stages.datasets.splits import Splits, write_splits
from stages.video.artifacts import Index


@dataclass(frozen=True, kw_only=True)
class AssignSplitsConfig:
    """A data set, and what is held out of its training clips."""

    data: ActionSetConfig
    validation_fraction: float = 0.1
    """Share of each class's training clips that is held out for choices, in whole sources."""
    seed: int = 0
    """Chooses those sources."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction <= 0.5:
            raise ConfigError(f"validation_fraction is {self.validation_fraction}; it must be from 0 to 0.5")


def lists_snapshot(config: AssignSplitsConfig) -> str:
    """Returns the digest of the content of the lists. Raises SourceError."""
    return config.data.lists_digest()


@stage(version=2, snapshot=lists_snapshot)
def assign_splits(config: AssignSplitsConfig, context: Context, *, index: Index) -> Splits:
    """Writes `splits.json`, and `check.json`.

    `check.json` names every clip that is missing, unreadable or a copy, and every video that is no clip; it is there
    also where the data set is refused.

    Raises:
        SourceError: the lists cannot be read or are not the official ones.
        DataSetError: none of their clips is in the index, or not all of them are and `allow_missing` is false.
    """
    data = config.data.data
    clips, records = config.data.read_clips(), index.records()
    matched = match(clips, records)
    lines = findings(data, matched)
    report_check(config.data, context, _account(matched), num_videos=len(records), lines=lines)
    if matched.extra:
        extra = [record.uri for record in matched.extra]
        context.log(f"{data.name}: {len(extra)} videos ({some(extra)}) not in its lists, ignored")
    write_splits(context.uri, data, clips, records, validation_fraction=config.validation_fraction, seed=config.seed)
    splits = Splits(context.uri, context.key)
    for number in splits.numbers():
        context.log(str(splits.coverage(number)))
    context.record(
        num_clips=len(matched.usable),
        num_official_clips=data.num_clips,
        num_missing=len(matched.missing),
        num_unreadable=len(matched.unreadable),
        num_twins=sum(len(names) - 1 for names in matched.twins),
        num_extra=len(matched.extra),
    )
    return splits


def _account(matched: Match) -> dict[str, Any]:
    return {
        "found": len(matched.usable),
        "missing": list(matched.missing),
        "unreadable": {name: record.reason for name, record in matched.unreadable.items()},
        "same_bytes": [list(names) for names in matched.twins],
        "not_in_the_lists": [record.uri for record in matched.extra],
    }


def findings(data: DataSet, matched: Match) -> list[str]:
    """Returns what keeps the data set from being whole, one sentence each; empty where nothing does."""
    lines = []
    if matched.missing:
        lines.append(missing_line(data, matched.missing))
    if matched.unreadable:
        lines.append(f"{len(matched.unreadable)} cannot be read ({some(list(matched.unreadable))})")
    if matched.twins:
        pairs = [" = ".join(names) for names in matched.twins]
        lines.append(f"{len(matched.twins)} files have the same bytes under several names ({some(pairs)})")
    return lines
