"""The hosts of links, and the sites whose pages hold videos that yt-dlp fetches."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

SITES: Final = ("youtube.com", "youtu.be", "youtube-nocookie.com", "vimeo.com", "dailymotion.com")
"""Hosts whose pages are requested through yt-dlp at once; of any other, yt-dlp reads what turns out to be a page."""


def host_of(uri: str) -> tuple[str, bool]:
    """Returns the host that a link is requested of, with its port if it has one, and whether that is a known site.

    The host of what is no address is empty.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "", False
    name = (parts.hostname or "").lower()
    for site in SITES:
        if name == site or name.endswith(f".{site}"):
            return ("youtube.com" if site.startswith("you") else site), True
    try:
        port = parts.port
    except ValueError:
        port = None
    return (f"{name}:{port}" if port else name), False
