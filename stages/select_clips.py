"""select_clips: the clips of UCF-101 or HMDB-51 among videos, by their names, before any of them is opened.

    data = ActionSetConfig(dataset="ucf101", lists="ucfTrainTestlist/")
    corpus = select_clips(SelectClipsConfig(data=data, videos=("UCF-101/",)), context)

A wrong folder or missing clips are reported in the time of a listing, and not after every video was
hashed. Videos that the lists do not name go no further. What cannot be read, and which files hold the same bytes, is
known once videos are indexed: `assign_splits` checks that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.core.errors import ConfigError
from pipeline.core.rates import BYTES_PER_FRAME
from pipeline.core.stage import CAME_LATER, Context, Estimate, stage
from stages.datasets.official.action_sets import ActionSetConfig, missing_line, report_check, some
from stages.datasets.official.clips import name_of
from stages.video.artifacts import Corpus, write_manifest
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
