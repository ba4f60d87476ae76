"""The frames that a video promises, in presentation order, and the account of where each of them went.

A *slot* is a frame that should be shown. The slots of a video come from its packets, read once without decoding; a
decoded frame finds its slot by its timestamp. Everything here is arithmetic: no FFmpeg.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

GRID_TOLERANCE_US = 500
"""Half a millisecond: Matroska rounds timestamps to milliseconds, and a frame must not miss its tick for that."""


DECODED, DROPPED, MISSING = 1, 2, 3
"""The fates of a slot; 0 stands for one that is not known yet."""


@dataclass(frozen=True)
class Timeline:
    """The slots of a video. n of them, sorted by time."""

    times_us: npt.NDArray[np.int64]
    """(n,) presentation time of each slot."""
    readable: npt.NDArray[np.bool_]
    """(n,) False where the container promises the slot but has no packet for it: behind a truncation, say."""
    pts: npt.NDArray[np.int64] | None
    """(n,) timestamps in units of the stream, strictly increasing; None where they do not identify a frame (missing,
    repeated or made up ones), and frames are then matched to slots by counting."""
    num_hidden: int = 0
    """Frames of the file that are not slots because they are not to be shown: cut away by an edit list, or empty."""
    seams: tuple[int, ...] = ()
    """Slots that begin a new segment because the file's clock starts again there, rising."""
    repairs: Mapping[int, int] = field(default_factory=dict)
    """Wrong timestamps of the file, and those that stand in their place (see `stages.video.clock`)."""

    def __post_init__(self) -> None:
        assert self.times_us.ndim == 1
        assert self.times_us.shape == self.readable.shape
        if self.pts is not None:
            assert self.pts.shape == self.times_us.shape
            assert np.all(np.diff(self.pts) > 0)

    def __len__(self) -> int:
        return len(self.times_us)

    @property
    def num_expected(self) -> int:
        """Frames that the file says it holds, shown or not."""
        return len(self) + self.num_hidden

    @property
    def num_unreadable(self) -> int:
        """Slots for which the file has no packet."""
        return int(np.count_nonzero(~self.readable))

    def slot(self, pts: int | None) -> int | None:
        """Returns the slot of a timestamp; None where there is none."""
        if self.pts is None or pts is None:
            return None
        position = int(np.searchsorted(self.pts, pts))
        return position if position < len(self) and self.pts[position] == pts else None


def to_us(stamp: int, time_base: Fraction) -> int:
    """Returns the microseconds of a timestamp, rounded, halves to even.

    Integers are used since a Fraction takes ten times as long, which a small frame would feel.
    """
    whole, rest = divmod(stamp * time_base.numerator * 1_000_000, time_base.denominator)
    return whole + (2 * rest + (whole & 1) > time_base.denominator)


def spread_repeats(times_us: npt.NDArray[np.int64], step_us: int) -> npt.NDArray[np.int64]:
    """Spreads frames of one time evenly over a step, or over the time until the next if that is shorter.

    times_us: (n,) sorted.
    """
    distinct, first, count = np.unique(times_us, return_index=True, return_counts=True)
    if len(distinct) == len(times_us):
        return times_us
    longest = max(step_us, int(count.max()))
    gap = np.minimum(np.diff(distinct, append=distinct[-1] + longest), longest)
    run = np.repeat(np.arange(len(distinct)), count)
    nth = np.arange(len(times_us)) - first[run]
    return np.asarray(times_us + nth * gap[run] // count[run], np.int64)


class Grid:
    """Picks frames at a target rate: the first frame of every tick, counted from the first slot's time.

    Never repeats a frame: a video slower than the rate keeps all of its frames.
    """

    def __init__(self, rate_fps: float | None, origin_us: int) -> None:
        self._rate = rate_fps
        self._origin_us = origin_us
        self._tick = -1

    def take(self, time_us: int) -> bool:
        """Returns whether the frame at `time_us` is the first of its tick; to be called once a slot, in order."""
        if self._rate is None:
            return True
        tick = int((time_us - self._origin_us + GRID_TOLERANCE_US) * self._rate // 1_000_000)
        if tick <= self._tick:
            return False
        self._tick = tick
        return True


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a decoded frame in its video."""

    keep: bool
    """False: the frame lies between the ticks of the target rate."""
    index: int
    """Number of the frame among those to keep, missing ones counted: it jumps where, and only where, frames are missing
    or out of order."""
    segment: int
    """Rises by one at every gap, and where the clock starts again: frames of one segment follow one another."""
    time_us: int


class FrameAccount:
    """Follows a video from its first frame to its last and says of every slot what became of it.

    Invariant once `close` was called: expected = decoded + dropped + missing.
    """

    def __init__(self, timeline: Timeline, rate_fps: float | None, *, keep_late: bool = True) -> None:
        """Starts an account. `keep_late` keeps frames that come out of order."""
        self._timeline = timeline
        self._rate_fps = rate_fps
        self._keep_late = keep_late
        self._fates = bytearray(len(timeline))
        self._grid = Grid(rate_fps, int(timeline.times_us[0]) if len(timeline) else 0)
        self._next_slot = 0
        self._next_index = 0
        self._segment = 0
        self._segment_before = 0
        self._has_gap = False
        self._num_seams = 0
        self._errors_unplaced = 0
        self._closed = False
        self.damaged = False
        """Whether anything went wrong so far: from then on, a slot without a frame is a loss."""
        self.num_placed = 0
        self.num_lost = 0
        """Errors and slots lost so far, sampled or not: rises whenever frames to come may lack what they build on."""
        self.expected = timeline.num_expected
        self.decoded = 0
        self.dropped = timeline.num_hidden
        self.missing = 0

    def error(self) -> None:
        """Notes that the decoder or the container reported damage at this point of the video."""
        self.damaged = True
        self.num_lost += 1
        self._errors_unplaced += 1

    def is_next(self, pts: int | None) -> bool:
        """Returns whether a frame with this timestamp follows the one before without a hole."""
        slot = self._timeline.slot(pts)
        return slot is None or slot == self._next_slot

    @property
    def is_complete(self) -> bool:
        """A flag that is set once every slot that has a packet has been passed."""
        return not self._timeline.readable[self._next_slot :].any()

    def place(self, pts: int | None, time_us: int | None) -> Place:
        """Returns the place of the next frame in presentation order.

        `time_us` is its timestamp, None where it has none.
        """
        assert not self._closed
        slot = self._timeline.slot(pts)
        if slot is not None and slot < self._next_slot:
            return self._too_late(slot)
        if slot is None:
            # Timestamps say nothing, so count: every error so far swallowed one frame.
            swallowed = self._errors_unplaced if self._timeline.pts is None else 0
            slot = max(self._next_slot, min(self._next_slot + swallowed, len(self._timeline) - 1))
        self._errors_unplaced = 0
        self._pass_over(slot)
        num_seams = bisect.bisect_right(self._timeline.seams, slot)
        self._has_gap |= num_seams > self._num_seams
        self._num_seams = num_seams
        if slot >= len(self._timeline):
            self.expected += 1  # more frames came out than the container promised
        elif time_us is None or self._timeline.pts is None:
            time_us = int(self._timeline.times_us[slot])
        time_us = 0 if time_us is None else time_us
        self._next_slot = slot + 1
        self.num_placed += 1
        if not self._grid.take(time_us):
            self._set_fate(slot, DROPPED)
            return Place(False, self._next_index, self._segment, time_us)
        self._segment_before = self._segment
        self._segment += self._has_gap and self.decoded > 0
        self._has_gap = False
        self._set_fate(slot, DECODED)
        self._next_index += 1
        return Place(True, self._next_index - 1, self._segment, time_us)

    def retract(self) -> None:
        """Retracts the frame that was placed last, which cannot be used after all."""
        assert self.decoded
        self.decoded -= 1
        self.missing += 1
        self.damaged = True
        self._segment = self._segment_before
        self._has_gap = True

    def close(self) -> None:
        """Closes the account at the end of the video: a frame that has not come out by now is lost."""
        self._pass_over(len(self._timeline))
        self._closed = True
        assert self.expected == self.decoded + self.dropped + self.missing

    def reject(self) -> None:
        """Rejects the video: its decoded frames count as missing."""
        self.missing += self.decoded
        self.decoded = 0

    def _too_late(self, slot: int) -> Place:
        """Handles a frame that comes out after one that is shown later, as decoders do after damage.

        It gets a segment of its own, or is not kept at all.
        """
        self.num_placed += 1
        time_us = int(self._timeline.times_us[slot])
        fate = self._fates[slot]
        if not self._keep_late or (fate == DROPPED and self._rate_fps is not None):
            if fate == DECODED:
                self.expected += 1
                self.dropped += 1
            return Place(False, self._next_index, self._segment, time_us)
        self.expected += fate == DECODED
        self.missing -= fate == MISSING
        self.dropped -= fate == DROPPED
        self.decoded += 1
        self._fates[slot] = DECODED
        self._segment_before = self._segment
        self._segment += 1
        self._next_index += 3
        self._has_gap = True
        return Place(True, self._next_index - 2, self._segment, time_us)

    def _set_fate(self, slot: int, fate: int) -> None:
        if slot < len(self._fates):
            self._fates[slot] = fate
        self.decoded += fate == DECODED
        self.dropped += fate == DROPPED
        self.missing += fate == MISSING

    def _pass_over(self, end: int) -> None:
        lost = 0
        for slot in range(self._next_slot, min(end, len(self._timeline))):
            is_lost = self.damaged or not self._timeline.readable[slot]
            self.num_lost += is_lost
            is_wanted = self._grid.take(int(self._timeline.times_us[slot]))
            # What the decoder takes without complaint is no loss: the second field of an interlaced frame, for one.
            self._set_fate(slot, MISSING if is_wanted and is_lost else DROPPED)
            lost += is_wanted and is_lost
        self._has_gap |= lost > 0
        self._next_index += lost
        self._next_slot = max(self._next_slot, end)
