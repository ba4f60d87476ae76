"""An estimate of the links, requests, bytes and days of a download, before it begins."""

from __future__ import annotations

import math
from typing import Final

from pipeline.core.network import NetworkOptions
from pipeline.core.printable import number_in_words, time_in_words
from pipeline.core.rates import BYTES_PER_FRAME
from pipeline.core.stage import Estimate
from stages.downloading.clip_rules import ClipRules

ALIVE_SHARE: Final = 0.7
"""Share of the links of an old list that still give a video, about."""
REQUESTS_PER_SITE_LINK: Final = 2
"""Requests that yt-dlp makes of a site for a link, about: its page, and its player. The file is another host's."""
REQUESTS_PER_CUT: Final = 3
"""Requests of a file of which only some seconds are fetched, about: its start, its index at the end, and the clip."""
FRAMES_PER_S: Final = 30
BYTES_PER_S: Final = FRAMES_PER_S * BYTES_PER_FRAME


def forecast_download(
    rules: ClipRules, hours: float | None, num_links: int, num_of_sites: int, network: NetworkOptions
) -> Estimate:
    """Estimates the download of lists with so many links, `num_of_sites` of them of sites such as YouTube."""
    seconds, requested = hours and hours * 3600, num_links
    if (each_s := rules.expected_s) is not None:
        if seconds is not None:
            requested = min(num_links, math.ceil(seconds / each_s / ALIVE_SHARE))
        seconds = min(seconds or math.inf, requested * ALIVE_SHARE * each_s)
    of_sites = round(requested * num_of_sites / max(1, num_links))
    site_requests = of_sites * REQUESTS_PER_SITE_LINK
    file_requests = requested * (1 if rules.mode in ("whole", "shots") else REQUESTS_PER_CUT)
    rate_s = max(1.5 * network.site_interval_s * site_requests, network.host_interval_s * file_requests)
    video, shown_h = "", number_in_words((seconds or 0.0) / 3600)
    if seconds:
        video = f" for {shown_h} h, {number_in_words(seconds * BYTES_PER_S / 1e9)} GB of video"
    if seconds and hours and seconds < 0.999 * hours * 3600:
        video += f" (the lists have about {shown_h} of {hours:g} h, if {1 - ALIVE_SHARE:.0%} are dead)"
    rates = [f"to {'any other' if of_sites else 'a'} host every {network.host_interval_s:g} s"]
    if of_sites:
        rates.insert(0, f"to a site every {network.site_interval_s:g}-{2 * network.site_interval_s:g} s")
    num_videos = round(requested * ALIVE_SHARE) if seconds is None else None
    if each_s is not None and seconds is not None:  # of whole videos nobody knows how many make so many hours
        num_videos = round(seconds / each_s)
    links = f"{'up to' if num_videos is None else 'about'} {requested:,} links"
    note = (
        f"{links}{video}, {site_requests + file_requests:,} requests; at one {' and '.join(rates)} "
        f"that takes {time_in_words(rate_s)}, over the whole cluster"
    )
    return Estimate(
        num_videos=num_videos,
        num_frames=round(seconds * FRAMES_PER_S) if seconds else None,
        num_bytes=round(seconds * BYTES_PER_S) if seconds else None,
        seconds=rate_s,
        is_waiting=True,
        note=note,
    )
