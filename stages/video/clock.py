"""A clock that goes on where a file's timestamps do not: ffmpeg's rule for discontinuities.

Transport streams and VOBs that were joined byte by byte start their clock again, overlap, jump by hours or wrap at 33
bits. ffmpeg compares the decoding time of each packet with the one that it expects (`ts_discontinuity_detect` in
fftools/ffmpeg_demux.c) and, beyond a threshold, shifts this packet and all that follow so that time goes on. Where the
format promises one clock for a file, only an error of 30 hours is treated so.

Here a shift also never puts a frame before one that is shown already: the parts of a joined file may delay their frames
by different amounts. Everything is arithmetic in ticks of the stream: no FFmpeg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

DELTA_THRESHOLD_S: Final = 10
"""Distance from the expected decoding time that is a discontinuity, in formats that have them; ffmpeg's
-dts_delta_threshold."""

ERROR_THRESHOLD_S: Final = 30 * 3600
"""The same in all other formats; ffmpeg's -dts_error_threshold."""

BACKWARD_S: Final = Fraction(1, 10)
"""Distance behind the packet before that is a discontinuity, in formats that have them."""

WRAP_BITS: Final = 33
"""Bits of a timestamp of MPEG-2 systems (ISO/IEC 13818-1, section 2.4.3.7)."""

OUTLIER_PACKETS: Final = 3
"""Most timestamps in a row that may be wrong while those around them agree."""

NEIGHBOURS: Final = 16
"""Packets before and behind a wrong timestamp among which its frame is shown: the reordering that H.264 allows."""


@dataclass
class Clock:
    """The timestamps of one stream, packet by packet in file order, on a clock that goes on."""

    stream_index: int
    """Number of the stream in its file."""
    time_base: Fraction
    """Seconds of a tick."""
    has_discontinuities: bool
    """True where the format allows its clock to start again (AVFMT_TS_DISCONT)."""
    wraps: bool
    """True where timestamps have `WRAP_BITS` bits."""
    nominal_step: int
    """Ticks from a frame to the next, where a packet has no duration."""
    repairs: Mapping[int, int] = field(default_factory=dict)
    """Wrong presentation times, and what is to stand in their place (see `find_outliers`)."""
    seams: list[int] = field(default_factory=list, init=False)
    """For every discontinuity so far, the latest presentation time before it: later frames are of another segment."""
    _offset: int = field(default=0, init=False)
    _dts: int | None = field(default=None, init=False)
    _next_dts: int | None = field(default=None, init=False)
    _latest_pts: int | None = field(default=None, init=False)

    def correct(
        self, pts: int | None, dts: int | None, duration: int, *, is_keyframe: bool
    ) -> tuple[int | None, int | None]:
        """Returns the packet's presentation and decoding time on this clock. Call it once a packet, in file order."""
        pts = None if pts is None else pts + self._offset
        if dts is not None:
            dts += self._offset
            shift = self._shift(pts if is_keyframe else None, dts)
            self._offset += shift
            dts += shift
            pts = None if pts is None else pts + shift
            self._dts = self._next_dts = dts
        if self._next_dts is not None:
            self._next_dts += duration or self.nominal_step
        if pts is not None:
            pts = self.repairs.get(pts, pts)
            self._latest_pts = pts if self._latest_pts is None else max(self._latest_pts, pts)
        return pts, dts

    def _shift(self, key_pts: int | None, dts: int) -> int:
        """Returns the ticks by which this packet and all that follow are to be moved.

        `key_pts`: presentation time of a keyframe, which nothing that follows it may precede.
        """
        if self._next_dts is None or self._dts is None:
            return 0
        delta = dts - self._next_dts
        turn = (1 << WRAP_BITS) if self.wraps else 0
        if turn and abs(delta + turn) * self.time_base <= DELTA_THRESHOLD_S:
            return turn
        if turn and abs(delta - turn) * self.time_base <= DELTA_THRESHOLD_S:
            return -turn
        if not self._is_discontinuity(delta, dts):
            return 0
        shift = -delta
        if self._latest_pts is not None:
            self.seams.append(self._latest_pts)
            if key_pts is not None:
                shift += max(0, self._latest_pts + self.nominal_step - (key_pts + shift))
        return shift

    def _is_discontinuity(self, delta: int, dts: int) -> bool:
        assert self._dts is not None
        if not self.has_discontinuities:
            return abs(delta) * self.time_base > ERROR_THRESHOLD_S
        is_behind = (self._dts - dts) * self.time_base > BACKWARD_S
        return is_behind or abs(delta) * self.time_base > DELTA_THRESHOLD_S


def find_outliers(stamps: npt.NDArray[np.int64], threshold: int, *, is_reordered: bool) -> dict[int, int]:
    """Returns wrong presentation times, each with one in its place, of the packets of a stream in file order.

    `stamps`: (n,) of all packets. Timestamps are wrong where they lie more than `threshold` ticks from the one before,
    no other packet is near them, and one of the next `OUTLIER_PACKETS` is within that distance again. Each such frame
    is put into the widest gap that its neighbours leave; the first ones, if they are too late, before all others.
    `is_reordered`: a frame that is shown last may come before
    others in the file, and is not wrong for that.
    """
    is_wrong = np.zeros(len(stamps), np.bool_)
    late = _late_at_first(stamps, threshold)
    is_wrong[:late] = True
    for first in (np.flatnonzero(np.abs(np.diff(stamps)) > threshold) + 1).tolist():
        run = _outliers_from(stamps, first, threshold, is_reordered=is_reordered)
        if not is_wrong[first - 1]:
            is_wrong[first : first + run] = True
    repairs: dict[int, int] = {}
    if late:
        near = np.unique(stamps[late : late + NEIGHBOURS])
        step = max(1, int(np.median(np.diff(near))))
        repairs = {int(stamps[place]): int(near[0]) - step * (late - place) for place in range(late)}
    for place in np.flatnonzero(is_wrong[late:]).tolist():
        place += late
        around = slice(max(0, place - NEIGHBOURS), place + NEIGHBOURS + 1)
        near = stamps[around][~is_wrong[around]].tolist()
        taken = [stamp for stamp in repairs.values() if min(near) < stamp < max(near)]
        middle = _widest_gap(sorted({*near, *taken}))
        if middle is not None:
            repairs[int(stamps[place])] = middle
    return repairs


def _late_at_first(stamps: npt.NDArray[np.int64], threshold: int) -> int:
    """Returns how many of the first packets are shown long after all that follow, which no reordering explains."""
    for run in range(1, OUTLIER_PACKETS + 1):
        others = stamps[run : run + NEIGHBOURS]
        if len(others) > 1 and stamps[:run].min() - others.max() > threshold:
            return run
    return 0


def _outliers_from(stamps: npt.NDArray[np.int64], first: int, threshold: int, *, is_reordered: bool) -> int:
    """Returns how many packets from `first` on are wrong; 0 where the clock has merely jumped."""
    behind = np.abs(stamps[first + 1 : first + 1 + OUTLIER_PACKETS] - stamps[first - 1]) <= threshold
    if not behind.any() or (is_reordered and len(stamps) - first <= NEIGHBOURS):
        return 0
    run = 1 + int(behind.argmax())
    before = stamps[max(0, first - NEIGHBOURS) : first]
    others = np.concatenate([before, stamps[first + run : first + run + NEIGHBOURS]])
    is_alone = np.abs(others[:, None] - stamps[None, first : first + run]).min() > threshold
    return run if is_alone else 0


def _widest_gap(stamps: Sequence[int]) -> int | None:
    """Returns the middle of the widest gap between neighbours; None where no tick is free."""
    gap, before = max(((after - before, before) for before, after in pairwise(stamps)), default=(0, 0))
    return before + gap // 2 if gap > 1 else None
