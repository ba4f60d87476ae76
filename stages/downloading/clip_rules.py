"""The seconds of a video that are downloaded: all, some at random, one clip after the other, or its shots."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers

Span = tuple[float, float] | None
"""Start and end in the video, seconds; None is the file as it is."""

SHORTEST_SHARE: Final = 0.98
"""Share of its seconds that a video must have to be long enough: durations in headers are rounded."""


@dataclass(frozen=True, kw_only=True)
class ClipRules:
    """The choice of clips, which depends on the link and the seed alone, and on how long the video is."""

    clips: Literal["auto", "whole", "random", "consecutive", "shots"] = "auto"
    """The clips of each video: all of it (or what its line says), at random places, one after the other, or one a shot
    (with --clip-seconds, one after the other within each shot); auto is random with --clip-seconds, and whole
    without."""
    clip_seconds: float | None = None
    """Length of a clip. A video or shot that is shorter counts as too short."""
    clips_per_video: int = 1
    """Clips at random places of a video, which do not overlap."""
    seed: int = 0
    """Decides the order of the links for --hours, and the random places."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.clip_seconds == 0:
            raise ConfigError(f"clip_seconds is {self.clip_seconds}; give seconds above 0")
        if self.clips in ("random", "consecutive") and self.clip_seconds is None:
            raise ConfigError(f"clips is {self.clips!r}, which needs a length: give --clip-seconds, such as 10")
        if self.clips == "whole" and self.clip_seconds is not None:
            raise ConfigError("clips is 'whole', which has no --clip-seconds; give --clips random or consecutive")
        if self.clips_per_video < 1:
            raise ConfigError(f"clips_per_video is {self.clips_per_video}; a video gives at least 1 clip")
        if self.clips_per_video > 1 and self.mode != "random":
            raise ConfigError("clips_per_video counts clips at random places; give --clips random --clip-seconds 10")

    @property
    def mode(self) -> str:
        """The way in which clips are chosen, `auto` resolved."""
        return ("random" if self.clip_seconds else "whole") if self.clips == "auto" else self.clips

    @property
    def identity(self) -> list[Any]:
        """All that decides the clips of a link, as JSON values."""
        by_chance = [self.clips_per_video, self.seed] if self.mode == "random" else []
        return [self.mode, self.clip_seconds, *by_chance]

    @property
    def expected_s(self) -> float | None:
        """Seconds that a video gives, where they are known before."""
        if self.mode != "random" or self.clip_seconds is None:
            return None
        return self.clip_seconds * self.clips_per_video

    def choose(
        self,
        uri: str,
        start_s: float | None,
        end_s: float | None,
        duration_s: float | None,
        boundaries_s: Sequence[float] = (),
    ) -> list[Span]:
        """Returns the spans to take, in their order in the video; none where it is too short.

        Args:
            uri: the link, which decides the random places together with the seed.
            start_s: where its line of the list lets it begin, seconds; None is the video's start.
            end_s: where its line lets it end; None is the video's end.
            duration_s: the video's length; None where it is not needed.
            boundaries_s: where new shots begin, between start and end; for shots alone.
        """
        if self.mode == "whole" and start_s is None and end_s is None:
            return [None]
        first = start_s or 0.0
        last = min(end_s, duration_s) if end_s is not None and duration_s is not None else end_s or duration_s or 0.0
        if self.mode == "whole":
            return [(first, last)] if last > first else []
        if self.mode == "shots":
            edges = [first, *boundaries_s, max(last, first)]
            return [span for start, end in pairwise(edges) for span in self._of_shot(round(start, 3), round(end, 3))]
        assert self.clip_seconds is not None
        length = last - first
        num_slots = int(length / self.clip_seconds + 1 - SHORTEST_SHARE) if length > 0 else 0
        if not num_slots:
            return []
        if self.mode == "consecutive":
            slots, offset = list(range(num_slots)), 0.0
        else:
            digest = hashlib.sha256(f"{self.seed} {uri} {start_s} {end_s}".encode("utf-8", "surrogatepass")).digest()
            chance = random.Random(digest)
            slots = sorted(chance.sample(range(num_slots), min(num_slots, self.clips_per_video)))
            offset = chance.random() * max(0.0, length - num_slots * self.clip_seconds)
        starts = [round(first + offset + slot * self.clip_seconds, 3) for slot in slots]
        return [(start, round(start + self.clip_seconds, 3)) for start in starts]

    def _of_shot(self, start_s: float, end_s: float) -> list[Span]:
        if self.clip_seconds is None:
            return [(start_s, end_s)] if end_s > start_s else []
        return replace(self, clips="consecutive").choose("", start_s, end_s, end_s)
