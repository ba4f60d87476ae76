"""One pass over the packets of a video: what its timeline is, and the first frame that decodes.

A container that counts its frames (MP4, AVI) says which of them have no packet. Of one that does not (Matroska,
transport streams) losses show only where bytes of the file belong to no packet *and* the timestamps jump, or where the
file ends before the duration in its header; the number of frames lost is then the time lost by the usual step.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stages.video.clock import DELTA_THRESHOLD_S, NEIGHBOURS, find_outliers
from stages.video.container import Damage, PacketReader, clock_of, decode_packet, in_words, shows_no_picture
from stages.video.limits import Limits
from stages.video.timeline import Timeline, spread_repeats, to_us

COUNTED = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "mjpeg", "obu"})
"""Formats that store no presentation times: what FFmpeg makes up for them does not identify a frame."""

HOLE_BYTES = 1024
"""Bytes between two packets that are more than any container's own headers."""

REORDER_PACKETS = 16
"""The largest distance, in packets, between a frame's place in the file and in presentation order that H.264 and
HEVC allow."""

SHORTFALL_S = 0.25
"""A video that ends this much (and three frames) before its header's duration is taken for truncated."""


class Scan:
    """Reads every packet of the container once; the video's are kept as timestamps, 16 bytes a frame."""

    def __init__(
        self, container: InputContainer, stream: VideoStream, limits: Limits, beat: Callable[[], None]
    ) -> None:
        """Reads the packets; `beat` is called after each of them."""
        self.container = container
        self.stream = stream
        self.time_base = stream.time_base or Fraction(1, 1000)
        self.header_size = (stream.codec_context.width, stream.codec_context.height)
        self.num_packets = 0
        self.first: VideoFrame | None = None
        self.error = ""
        """FFmpeg's message for the first packet that does not decode."""
        self.stopped = ""
        """The limit that ended the pass early."""
        self._limits = limits
        self._pts = array("q")
        self._dts = array("q")
        self._has_all_pts = True
        self._end_us = 0
        self._any_end_us = 0
        self._last_dts = 0
        """The latest decoding time of a packet, be it empty."""
        self._next_byte = 0
        self._num_hidden = 0
        self._holes: list[int] = []
        """Numbers of the video's packets before which bytes of the file are lost."""
        self._clock = clock_of(container, stream)
        self._unshown = 0
        """Ticks between packets in which no frame is shown: those of a gap beyond 10 s and its frame's duration."""
        self._shown = 0
        """Ticks from packet to packet in the order of decoding, each with `_longest_step` at most."""
        self._longest_step = max(self._ticks(DELTA_THRESHOLD_S), self._clock.nominal_step)
        """Ticks that a frame is believed to be shown: 10 s, or the stream's own step where that is longer."""
        self._last_duration = 0
        self.num_errors = self._read(PacketReader(container, beat=beat, clock=self._clock))

    def _read(self, reader: PacketReader) -> int:
        deadline = time.monotonic() + self._limits.min_decode_s
        num_errors = 0
        for packet in reader:
            if reader.num_errors > num_errors or packet.is_corrupt:
                num_errors = reader.num_errors
                self._holes.append(len(self._pts))
            self._look_at(packet)
            self.stopped = self._beyond_limit(time.monotonic() > deadline)
            if self.stopped:
                return reader.num_errors
        if self.first is None:
            self._find_first(decode_packet(self.stream.codec_context, None))
        return reader.num_errors

    def _beyond_limit(self, is_late: bool) -> str:
        limits = self._limits
        if max(self.num_packets, self.stream.frames) > limits.max_frames:
            return f"holds more than max_frames = {limits.max_frames} frames"
        shown = self._shown + min(self._last_duration, self._longest_step)
        if to_us(shown, self.time_base) > limits.max_duration_s * 1e6:
            return f"lasts longer than max_duration_s = {limits.max_duration_s:g} s"
        return f"took longer to read than min_decode_s = {limits.min_decode_s:g} s" if is_late else ""

    def _look_at(self, packet: Packet[VideoStream]) -> None:
        if packet.pos is not None and packet.pos >= 0:
            if packet.pos - self._next_byte > HOLE_BYTES and self._next_byte:
                self._holes.append(len(self._pts))
            self._next_byte = max(self._next_byte, packet.pos + packet.size)
        stamp = packet.pts if packet.pts is not None else packet.dts
        time_base = packet.time_base or self.time_base
        end_us = 0 if stamp is None else to_us(stamp + (packet.duration or 0), time_base)
        self._any_end_us = max(self._any_end_us, end_us)
        if packet.stream_index != self.stream.index:
            return
        self.num_packets += 1
        self._last_dts = max(self._last_dts, packet.dts or 0)
        if self.first is None:
            self._find_first(decode_packet(self.stream.codec_context, packet))
        if not packet.size or packet.is_discard or shows_no_picture(self.stream.codec_context.name, packet):
            self._num_hidden += 1
            return
        self._has_all_pts &= packet.pts is not None
        dts = self._decoding_time(packet)
        if stamp is None:
            end_us = to_us(dts + (packet.duration or self._clock.nominal_step), self.time_base)
        self._end_us = max(self._end_us, end_us)
        if self._dts:
            longest = max(self._ticks(DELTA_THRESHOLD_S), self._last_duration)
            self._unshown += max(0, dts - self._dts[-1] - longest)
            self._shown += min(max(0, dts - self._dts[-1]), self._longest_step)
        self._last_duration = packet.duration or 0
        self._pts.append(packet.pts or 0)
        self._dts.append(dts)

    def _decoding_time(self, packet: Packet[VideoStream]) -> int:
        if packet.dts is not None:
            return packet.dts
        return self._dts[-1] + self._clock.nominal_step if self._dts else (packet.pts or 0)

    def _ticks(self, seconds: int) -> int:
        return int(seconds / self.time_base)

    def _find_first(self, decoded: Sequence[VideoFrame | Damage]) -> None:
        for item in decoded:
            if isinstance(item, VideoFrame):
                self.first = self.first or item
            else:
                self.error = self.error or in_words(item)

    @property
    def duration_us(self) -> int:
        """The time from the first packet to the end of the last, without long gaps; 0 before there is one."""
        if not self._pts:
            return 0
        first = self._pts[0] if self._has_all_pts else self._dts[0]
        duration_us = max(0, self._end_us - to_us(first, self.time_base) - to_us(self._unshown, self.time_base))
        end_us = to_us(self._dts[-1] + self._last_duration, self.time_base)
        if abs(self._end_us - end_us) > DELTA_THRESHOLD_S * 1e6:  # a single presentation time is wrong
            return to_us(self._shown + self._last_duration, self.time_base)
        return duration_us

    def timeline(self) -> Timeline:
        """Returns the slots of the video: one a packet to be shown, and one for every frame known to be lost."""
        shown = np.array(self._pts if self._has_all_pts else sorted(self._dts), np.int64)
        repairs = self._outliers(shown)
        shown = np.array([repairs.get(stamp, stamp) for stamp in shown.tolist()], np.int64) if repairs else shown
        lost, num_cut = self._lost(shown)
        stamps = np.concatenate([shown, lost])
        order = np.argsort(stamps, kind="stable")
        stamps = stamps[order]
        is_exact = self._tells_order and bool(np.all(np.diff(stamps) > 0))
        # Through Python's integers: ticks times a million do not always fit 64 bits.
        times_us = np.array([to_us(stamp, self.time_base) for stamp in stamps.tolist()], np.int64)
        times_us = spread_repeats(times_us, to_us(self._clock.nominal_step, self.time_base))
        ends_of_clocks = np.array(sorted(set(self._clock.seams)), np.int64)
        seams = sorted(set(np.searchsorted(stamps, ends_of_clocks, "right").tolist()))
        return Timeline(
            times_us,
            order < len(shown),
            stamps if is_exact else None,
            self._num_hidden + num_cut,
            seams=tuple(seams),
            repairs=repairs,
        )

    @property
    def _tells_order(self) -> bool:
        """A flag of presentation times that are the file's own: reordered frames with those of decoding have none."""
        if not self._has_all_pts or self.container.format.name in COUNTED:
            return False
        return not (self.stream.codec_context.has_b_frames and len(self._pts) > 1 and self._pts == self._dts)

    def _outliers(self, shown: npt.NDArray[np.int64]) -> dict[int, int]:
        """Returns wrong timestamps, and what stands in their place, where timestamps identify frames."""
        if not self._tells_order or len(shown) < 3:
            return {}
        step = int(np.median(np.diff(np.sort(shown))))
        threshold = max(self._ticks(DELTA_THRESHOLD_S), (NEIGHBOURS + 1) * step)
        return find_outliers(shown, threshold, is_reordered=bool(self.stream.codec_context.has_b_frames))

    def _lost(self, shown: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
        """Returns approximate timestamps of promised frames without a packet, and how many more are cut away."""
        declared = self.stream.frames
        num_entries = len(self.stream.index_entries)
        if declared and "mp4" in self.container.format.name and num_entries >= self.num_packets:
            lost = self._unread_samples(num_entries - self.num_packets)
            # FFmpeg's index of an MP4 holds the samples that the edit list shows; the others are cut away.
            return lost, max(0, declared - self.num_packets - len(lost))
        if declared and self.container.format.name == "avi":
            # AVI counts ticks: more than there are frames, where some are empty.
            step = max(1, int(np.median(np.diff(self._dts)))) if len(self._dts) > 1 else 1
            return self._behind_the_end(shown, (declared - self._last_dts - 1) // step), 0
        if declared:
            return self._behind_the_end(shown, declared - self.num_packets), 0
        inside = self._inside_holes(shown) if self._has_all_pts else np.empty(0, np.int64)
        return np.concatenate([inside, self._behind_the_end(shown, self._num_cut_off())]), 0

    def _unread_samples(self, num_unread: int) -> npt.NDArray[np.int64]:
        """Returns the samples of an MP4's index that were not read, shifted by the usual delay until presentation."""
        seen = set(self._dts)
        entries = [entry for entry in self.stream.index_entries if not entry.is_discard]
        unread = [entry.timestamp for entry in entries if entry.timestamp not in seen][:num_unread]
        delay = int(np.median(np.subtract(self._pts, self._dts))) if self._pts and self._has_all_pts else 0
        return np.array(unread, np.int64) + delay

    def _behind_the_end(self, shown: npt.NDArray[np.int64], num_lost: int) -> npt.NDArray[np.int64]:
        last = int(shown.max()) if len(shown) else 0
        return last + self._clock.nominal_step * np.arange(1, max(0, num_lost) + 1, dtype=np.int64)

    def _num_cut_off(self) -> int:
        """Counts the frames between the last packet of any stream and the header's duration, where that is credible.

        Formats whose clock may start again have no such header: FFmpeg reads the last timestamp.
        """
        if self._clock.has_discontinuities:
            return 0
        claimed_us, start_us = self.container.duration or 0, self.container.start_time or 0
        step_us = float(self._clock.nominal_step * self.time_base * 1_000_000)
        # Writers differ in whether a duration counts from zero or from a start that is late; none counts from before.
        is_from_start = start_us < 0 or start_us > claimed_us
        shortfall_us = claimed_us - self._any_end_us + (start_us if is_from_start else 0)
        is_believable = claimed_us <= self._limits.max_duration_s * 1e6
        if not is_believable or shortfall_us < max(SHORTFALL_S * 1e6, 3 * step_us):
            return 0
        return min(round(shortfall_us / step_us), self._limits.max_frames)

    def _inside_holes(self, shown: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the frames between two timestamps that lie too far apart, where bytes of the file are lost nearby."""
        if not self._holes or len(shown) < 3:
            return np.empty(0, np.int64)
        order = np.argsort(shown, kind="stable")
        stamps = shown[order]
        step = max(1, int(np.median(np.diff(stamps))))
        holes = np.array(sorted(self._holes))
        lost: list[npt.NDArray[np.int64]] = []
        for gap in np.flatnonzero((np.diff(stamps) > 1.5 * step) & ~np.isin(stamps[:-1], self._clock.seams)):
            first, last = sorted((int(order[gap]), int(order[gap + 1])))
            nearest = int(np.searchsorted(holes, first - REORDER_PACKETS))
            num_lost = round(int(stamps[gap + 1] - stamps[gap]) / step) - 1
            if (
                nearest < len(holes)
                and holes[nearest] <= last + REORDER_PACKETS
                and num_lost <= self._limits.max_frames
            ):
                lost.append(stamps[gap] + step * np.arange(1, num_lost + 1))
        return np.concatenate([np.empty(0, np.int64), *lost])
