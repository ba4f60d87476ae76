"""The choice of the videos of an index that are held out: those of a group, and copies of one, lie on one side.

Shapes: N sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from pipeline.core.printable import count_of
from pipeline.core.stage import Context
from stages.datasets.official.clips import OfficialClip, hold_out_sources
from stages.video.ledger import rejections_in_words
from stages.video.listing import IndexSources, ProbeResults
from stages.video.probe import readable_name
from stages.video.sources import VideoSource

HELD_OUT_PART: Final = "test"
"""The part of videos that are held out."""


def groups_of(listing: IndexSources, first_N: npt.NDArray[np.int64], context: Context) -> dict[int, str]:
    """Returns the groups of videos that lists put into one, by the place of the first video of the same bytes.

    first_N: the place of the first usable source with the same bytes as each.

    Groups that have a video in common are one, by the name that comes first, as all of either lie on one side.
    """
    group_of: dict[int, str] = {}
    merged: dict[str, str] = {}
    example = ""

    def whole(group: str) -> str:
        while (other := merged.get(group, group)) != group:
            group = other
        return group

    for source, first in zip(listing.sources, first_N.tolist(), strict=True):
        if source.group is not None:
            one, other = sorted((whole(source.group), whole(group_of.setdefault(first, source.group))))
            if one != other:
                merged[other] = one
                example = example or f"{other!r} with {one!r}: {readable_name(source.uri)} is one of both"
    if merged:
        number = count_of(len(merged), "group")
        context.log(f"warning: {number} taken for one with another, as they have the same video, such as {example}")
    return {first: whole(group) for first, group in group_of.items()}


def held_out(
    listing: IndexSources,
    results: ProbeResults,
    first_N: npt.NDArray[np.int64],
    group_of: Mapping[int, str],
    *,
    share: float,
    share_of_labels: float,
    label_of: Callable[[VideoSource], str | None],
) -> npt.NDArray[np.bool_]:
    """Returns (N,) which of the sources without a part are held out, by a hash of group or content.

    What is of a group, or has the bytes, of one to which a list gives a part, is on its side.

    first_N, group_of: as `groups_of` takes and returns them.
    share: of all, in whole groups. share_of_labels: of each label's, in whole groups.

    Raises:
        ConfigError: all that are usable, and of no group with a part, make up a single group.
    """
    is_aside_N = np.zeros(len(listing), np.bool_)
    if not (share or share_of_labels):
        return is_aside_N
    from stages.datasets.sequences import hold_out_groups  # torch takes a second: not in every prober

    def group_at(place: int) -> str:
        return group_of.get(int(first_N[place])) or results[place].sha256

    parts = {group_at(place): source.part for place, source in enumerate(listing.sources) if source.part}
    places = np.flatnonzero(listing.has_no_part_N & ~results.is_rejected_N).tolist()
    free = [place for place in places if group_at(place) not in parts] if parts else places
    out = {group for group, part in parts.items() if part == HELD_OUT_PART}
    if share and free:
        try:
            is_aside_N[free] = hold_out_groups(map(group_at, free), portion=share, seed=0)
        except ConfigError as error:
            rejected = rejections_in_words(results[place] for place in np.flatnonzero(results.is_rejected_N).tolist())
            raise ConfigError(f"{error}; {rejected}" if rejected else str(error)) from error
    if share_of_labels:
        clips = [
            OfficialClip(name=group, label=label, source=group, group=group, subsets=())
            for place in free
            if (label := label_of(listing.sources[place])) is not None
            for group in [group_at(place)]
        ]
        out |= hold_out_sources(clips, fraction=share_of_labels, seed=0)
    if out:  # what has no label, too: nothing is learned from the recording of a video to test on
        is_aside_N[[place for place in places if group_at(place) in out]] = True
    return is_aside_N
