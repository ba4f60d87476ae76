"""The beginning of every recipe that reads videos: archives are unpacked, and everything is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from pipeline.core.errors import ConfigError
from pipeline.core.flags import Inline
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.run_options import RunOptions
from pipeline.recipes.video_checks import WindowCheck
from stages.datasets.patches import CuttingConfig
from stages.extraction.config import ExtractionConfig
from stages.ingest import IngestConfig, ingest
from stages.unpack import UnpackConfig, unpack
from stages.video.archives import ArchiveLimits
from stages.video.limits import Limits
from stages.video.lists.rows import ListRules
from stages.video.lists.suffixes import list_suffix
from stages.video.sources import split_archives

Decoding = TypeVar("Decoding", bound=ExtractionConfig | CuttingConfig)


@dataclass(frozen=True, kw_only=True)
class VideoOptions(RunOptions):
    """The options of every recipe that reads videos."""

    limits: Limits = Limits()
    """The bounds beyond which a video is rejected, when it is indexed and when it is decoded."""
    archive_limits: ArchiveLimits = ArchiveLimits()
    """The bounds beyond which an archive among the videos is refused."""
    video_stream: int | None = None
    """Number of the stream to decode in every file, as --limits.video-stream; None takes the one that ffmpeg takes."""
    list_rules: Inline[ListRules] = ListRules()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.video_stream is not None:
            object.__setattr__(self, "limits", replace(self.limits, video_stream=self.video_stream))


def within_limits(config: Decoding, limits: Limits) -> Decoding:
    """Returns the config of a stage that decodes, with the limits of the recipe.

    Raises:
        ConfigError: the config has limits of its own.
    """
    if config.limits not in (Limits(), limits):
        raise ConfigError("limits of a single stage cannot be given: --limits.* decides for every stage of the recipe")
    return replace(config, limits=limits)


def add_unpacked(plan: Plan, videos: Sequence[str], limits: ArchiveLimits) -> tuple[Node | None, tuple[str, ...]]:
    """Adds a node that unpacks the archives among `videos`; returns it, or None, and the other videos."""
    archives, others = split_archives(videos)
    return (plan.add(unpack, UnpackConfig(archives=archives, limits=limits)) if archives else None), others


def lists_first(videos: Sequence[str]) -> tuple[str, ...]:
    """Returns what was given as videos, lists before the rest: a video has the label with which it comes first."""
    return tuple(sorted(videos, key=lambda given: not list_suffix(given)))


def add_index(
    plan: Plan,
    options: VideoOptions,
    videos: Sequence[str],
    *,
    held_out: float = 0.0,
    corpus: Node | None = None,
    check: WindowCheck | None = None,
) -> Node:
    """Adds the index of `videos` (folders, archives, globs, lists, buckets) and of a made `corpus`.

    check: the windows that are needed of the videos, where too short ones end the run before anything is decoded.
    """
    unpacked, others = add_unpacked(plan, videos, options.archive_limits)
    config = IngestConfig(videos=others, held_out=held_out, limits=options.limits, list_rules=options.list_rules)
    index = plan.add(ingest, config, resources=options.on_cpus, corpus=corpus, unpacked=unpacked)
    return plan.replaced(index, check=check)


ONE_LIMITS: Final = dict.fromkeys(("extract.limits.", "cut.limits."), "--limits decides it for every stage")
"""The limits of single stages, which recipes refuse as options."""
