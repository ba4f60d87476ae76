"""Options of recipes that read links, and the stage that downloads them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

from pipeline.core.errors import ConfigError, PlanError
from pipeline.core.flags import Inline
from pipeline.core.network import NetworkOptions
from pipeline.core.numbers import check_numbers
from pipeline.core.stage import Resources
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.video_inputs import VideoOptions
from stages.download import LEARNED_PART, DownloadConfig, download
from stages.downloading.clip_rules import ClipRules
from stages.downloading.listing import LinkListing
from stages.extract import ExtractConfig
from stages.extraction.config import ExtractionConfig


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """The clips that are taken of links, and how links are requested."""

    hours: float | None = None
    """Hours of video that are enough. Links are requested in an order that --seed decides, and dead ones replaced by
    the next; default: all links."""
    clip_rules: Inline[ClipRules] = ClipRules()
    pin: str | None = None
    """The downloads.parquet of an earlier run, whose clips are taken and no others."""
    max_height: int = 360
    """Height, in pixels, of the largest format that is requested where a site offers several."""
    keep_videos: bool = False
    """Keep the files of clips in the store; by default they are deleted as soon as their percepts are made."""
    network: Inline[NetworkOptions] = NetworkOptions()

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.hours == 0 or self.max_height == 0:
            raise ConfigError(f"hours is {self.hours} and max_height {self.max_height}; both are above 0")


def add_download(
    plan: Plan,
    options: VideoOptions,
    links: tuple[str, ...],
    wanted: LinkOptions,
    percepts: ExtractConfig,
    *,
    is_all: bool,
) -> Node:
    """Adds the download of lists of links; its clips become `percepts` before they are deleted.

    Raises:
        ConfigError: the links are all that is learned from (`is_all`), and none of them is to learn from.
    """
    extraction = None
    if not wanted.keep_videos:
        names = {field.name for field in fields(ExtractionConfig)}
        extraction = ExtractionConfig(**{name: getattr(percepts, name) for name in names})
    config = DownloadConfig(
        links=links,
        list_rules=options.list_rules,
        rules=wanted.clip_rules,
        hours=wanted.hours,
        pin=wanted.pin,
        max_height=wanted.max_height,
        limits=options.limits,
        extraction=extraction,
        shard_frames=percepts.shard_frames,
    )
    resources: Resources = options.on_cpus if wanted.keep_videos else options.on_devices
    node = plan.add(download, config, resources=replace(resources, network=wanted.network))
    if not isinstance(node.listing, LinkListing):
        raise PlanError("download has no listing of links")
    num_by_part = node.listing.num_by_part
    if is_all and node.listing.num_links and not num_by_part[None] + num_by_part[LEARNED_PART]:
        raise ConfigError(
            f"every link is of part {' or '.join(sorted(filter(None, num_by_part)))}, which nothing is learned from: "
            f"give a list with links of part {LEARNED_PART} or of none, such as its list of training videos"
        )
    node.listing.network = wanted.network
    return node


ONLY_WITH_LINKS: Final = {
    field.name.replace("_", "-"): "links"
    for kind in (LinkOptions, ClipRules, NetworkOptions)
    for field in fields(kind)
    if field.name not in ("clip_rules", "network")
}
"""The options that have an effect with --links alone."""
