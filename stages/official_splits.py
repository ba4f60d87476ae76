"""Stages of the official splits of UCF-101 and HMDB-51: select_clips finds their clips, assign_splits deals them.

    data = ActionSetConfig(dataset="ucf101", lists="ucfTrainTestlist/")
    corpus = select_clips(SelectClipsConfig(data=data, videos=("UCF-101/",)), context)
    splits = assign_splits(AssignSplitsConfig(data=data), context, index=index)

`select_clips` goes by the names of videos, before any of them is opened, so that a wrong folder or missing clips are
reported in the time of a listing. Videos that the lists do not name go no further.

`assign_splits` matches the splits with the videos of an index, whose bytes are known. Its check says which of the clips
are missing or unreadable, which files hold the same bytes under several names, and which videos the lists do not name.
Unless `allow_missing`, both go on only with the whole data set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import ConfigError
from pipeline.core.rates import BYTES_PER_FRAME
from pipeline.core.stage import CAME_LATER, Context, Estimate, stage
from stages.datasets.official.action_sets import ActionSetConfig, missing_line, report_check, some
from stages.datasets.official.clips import DataSet, Match, match, name_of
from stages.datasets.splits import Splits, write_splits
from stages.video.artifacts import Corpus, Index, write_manifest
from stages.video.listing import SourceListing, iter_listed
from stages.video.lists.rows import ListRules
from stages.video.sources import VideoSource, list_videos, unique_sources


@dataclass(frozen=True, kw_only=True)
class SelectClipsConfig:
    """A data set, and where its clips are."""

    data: ActionSetConfig
    videos: tuple[str, ...] = ()
    """Folders, globs, video files, lists or bucket URLs, besides what was unpacked."""
    list_rules: ListRules = field(default=ListRules(), metadata=CAME_LATER)
    """The addresses that the lines of lists may name."""


def _list_sources(config: SelectClipsConfig) -> SourceListing | str:
    """Returns the listing of the videos with a digest that depends on the lists, too. Raises SourceError."""
    lists = config.data.lists_digest()
    return SourceListing(config.videos, config.list_rules, salt=lists) if config.videos else lists


def _estimate(config: SelectClipsConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    unpacked_bytes = inputs.get("unpacked", Estimate()).num_bytes or 0
    num_bytes = unpacked_bytes + (inputs.get("listing", Estimate()).num_bytes or 0)
    return Estimate(num_frames=num_bytes // BYTES_PER_FRAME)


@stage(version=1, snapshot=_list_sources, estimate=_estimate)
def select_clips(config: SelectClipsConfig, context: Context, *, unpacked: Corpus | None = None) -> Corpus:
    """Writes `manifest.csv`, the videos that have a clip's name, in the lists' order, and `check.json`.

    `check.json` names every clip that is missing and every video that is no clip; it is there also where the data set
    is refused.

    Raises:
        ConfigError: no videos were given.
        SourceError: the lists cannot be read or are not the official ones, or the videos cannot be listed.
        DataSetError: none of the data set's clips is there, or not all of them are and `allow_missing` is false.
    """
    data = config.data.data
    if unpacked is None and not config.videos:
        raise ConfigError("select_clips was given no videos; give --videos")
    clips, sources = config.data.read_clips(), _list_all(config, context, unpacked)
    by_name: defaultdict[str, list[VideoSource]] = defaultdict(list)
    for source in sources:
        by_name[name_of(source.uri)].append(source)
    videos_of = [(clip.name, by_name.pop(clip.name.casefold(), [])) for clip in clips]
    missing = [name for name, videos in videos_of if not videos]
    extra = [source.uri for videos in by_name.values() for source in videos]
    num_found = len(clips) - len(missing)
    account = {"found": num_found, "missing": missing, "not_in_the_lists": extra}
    lines = [missing_line(data, missing)] if missing else []
    report_check(config.data, context, account, num_videos=len(sources), lines=lines)
    if extra:
        context.log(f"{data.name}: {len(extra)} videos ({some(extra)}) not in its lists, left out")
    write_manifest(context, ["uri"], ({"uri": source.uri} for _, videos in videos_of for source in videos))
    context.record(
        num_clips=num_found, num_official_clips=data.num_clips, num_missing=len(missing), num_extra=len(extra)
    )
    return Corpus(context.uri, context.key)


def _list_all(config: SelectClipsConfig, context: Context, unpacked: Corpus | None) -> list[VideoSource]:
    """Returns the videos that were unpacked and those that the key knows, each URI once."""

    def log(note: str) -> None:
        context.log(f"warning: {note}")

    sources = [] if unpacked is None else list_videos((unpacked.manifest_uri,), None)
    if config.videos:
        sources += [source for source, _ in iter_listed(context, config.videos, config.list_rules, note=log)]
    return list(unique_sources(sources, lambda source: source))


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
