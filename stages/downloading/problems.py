"""The end of an attempt at a link, and what it means for the link and for its host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from stages.downloading.link_results import Status


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The end of an attempt without a clip."""

    status: Status
    reason: str
    may_pass: bool = False
    """True if another attempt may end otherwise."""
    host: str = ""
    """The host that it is about; empty where it is about the video."""
    retry_after_s: float | None = None
    """Pause that the host requests, seconds."""
    says_no: bool = False
    """True if the host refuses all requests, and not this video alone."""


class LinkError(Exception):
    """An attempt at a link that ended without a clip. Stays inside `stages.downloading`; it pickles."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.reason)
        self.problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return LinkError, (self.problem,)


FINAL_BY_STATUS: Final[dict[int, tuple[Status, str]]] = {
    401: ("private", "requests a login"),
    402: ("private", "requests money"),
    404: ("gone", "there is no such file"),
    410: ("gone", "it is gone for good"),
    451: ("region", "it may not be shown here for legal reasons"),
}


def problem_of_status(code: int, host: str, retry_after_s: float | None) -> Problem:
    """Returns what an HTTP status other than success means."""
    if code in FINAL_BY_STATUS:
        status, words = FINAL_BY_STATUS[code]
        return Problem(status=status, reason=f"the server answers {code}: {words}", host=host)
    reason = f"the server answers {code}"
    if code == 429:
        words = f"{reason}: too many requests"
        return Problem(
            status="blocked", reason=words, host=host, may_pass=True, retry_after_s=retry_after_s, says_no=True
        )
    if code == 403:
        return Problem(status="blocked", reason=f"{reason}: forbidden", host=host)
    may_pass = code in (408, 425) or code >= 500
    return Problem(status="failed", reason=reason, host=host, may_pass=may_pass, retry_after_s=retry_after_s)


_SITE_SAYS: Final[tuple[tuple[tuple[str, ...], Status], ...]] = (
    (("not a bot", "HTTP Error 429", "Too Many Requests", "captcha", "rate.?limit"), "blocked"),
    (("confirm your age", "age.?restricted", "inappropriate for some users", "age verification"), "age"),
    (("private video", "video is private", "members.only", "join this channel", "only available to"), "private"),
    (("login required", "sign in", "log in"), "private"),
    (("available (in|from) your (country|location|region)", "geo.?restrict", "blocked it in your"), "region"),
    (("removed", "terminated", "no longer available", "does(n't| not) exist", "account has been"), "gone"),
    (("video (is )?unavailable", "is not available", "HTTP Error 404", "HTTP Error 410"), "gone"),
    (("HTTP Error 403", "blocked"), "blocked"),
    (("unsupported url", "no video formats", "no media", "no video could be found", "DRM"), "unusable"),
)
"""The words of sites, as yt-dlp passes them on; the first that match count."""


def problem_of_site(message: str, host: str) -> Problem:
    """Returns what the message of yt-dlp's error means."""
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", message).split()).removeprefix("ERROR: ")[:300]
    for number, (patterns, status) in enumerate(_SITE_SAYS):
        if re.search("|".join(patterns), words, re.IGNORECASE):
            says_no = number == 0
            return Problem(status=status, reason=words, host=host, may_pass=says_no, says_no=says_no)
    return Problem(status="failed", reason=words or "yt-dlp gives no reason", host=host, may_pass=True)
