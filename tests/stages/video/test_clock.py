"""The clock against a plain model of ffmpeg's rule, and against files that people reported.

The model works in microseconds on absolute times, as fftools/ffmpeg_demux.c does; the clock works in ticks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.video.clock import WRAP_BITS, Clock, find_outliers
from stages.video.decode import DecodeConfig, VideoDecoder
from stages.video.probe import probe
from tests.stages.video.clips import encode, moving_square

HZ = 90_000
STEP = 3600
SECOND_US = 1_000_000


@dataclass
class FfmpegModel:
    """`ts_discontinuity_process` and `ts_discontinuity_detect` for one stream, without -copyts."""

    is_discontinuous: bool
    offset_us: int = 0
    dts_us: int | None = None
    next_dts_us: int | None = None

    def __call__(self, dts_us: int, duration_us: int) -> int:
        dts_us += self.offset_us
        if self.next_dts_us is not None and self.dts_us is not None:
            delta_us = dts_us - self.next_dts_us
            if self.is_discontinuous:
                is_broken = abs(delta_us) > 10 * SECOND_US or dts_us + SECOND_US // 10 < self.dts_us
            else:
                is_broken = abs(delta_us) > 30 * 3600 * SECOND_US
            if is_broken:
                self.offset_us -= delta_us
                dts_us -= delta_us
        self.dts_us = dts_us
        self.next_dts_us = dts_us + duration_us
        return dts_us


def clock(*, is_discontinuous: bool = True, wraps: bool = False) -> Clock:
    return Clock(
        stream_index=0,
        time_base=Fraction(1, HZ),
        has_discontinuities=is_discontinuous,
        wraps=wraps,
        nominal_step=STEP,
    )


def jump_ticks() -> st.SearchStrategy[int]:
    """Restarts, overlaps, gaps of seconds, and jumps of hours or days, in ticks of 1/90000 s."""
    seconds = st.one_of(
        st.integers(-1, 1), st.integers(-12, 12), st.integers(-7200, 7200), st.integers(-40 * 3600, 40 * 3600)
    )
    return st.builds(lambda whole, rest: whole * HZ + rest * 90, seconds, st.integers(-1000, 1000))


@st.composite
def made_timelines(draw: st.DrawFn) -> list[int]:
    """Decoding times of packets of 40 ms: parts that follow one another at any distance, some with an outlier."""
    stamps: list[int] = []
    start = draw(st.integers(0, 20 * HZ))
    for _ in range(draw(st.integers(1, 5))):
        part = [start + number * STEP for number in range(draw(st.integers(1, 12)))]
        if draw(st.booleans()):
            part[draw(st.integers(0, len(part) - 1))] += draw(jump_ticks())
        stamps += part
        start = part[-1] + STEP + draw(jump_ticks())
    return stamps


@given(made_timelines(), st.booleans())
def test_decoding_times_are_ffmpegs(stamps: list[int], is_discontinuous: bool) -> None:
    ours, ffmpegs = clock(is_discontinuous=is_discontinuous), FfmpegModel(is_discontinuous)
    for stamp in stamps:
        _, dts = ours.correct(None, stamp, STEP, is_keyframe=False)
        assert dts is not None
        expected_us = ffmpegs(round(Fraction(stamp * SECOND_US, HZ)), STEP * SECOND_US // HZ)
        # Ticks are exact; microseconds round each packet's time and each shift.
        assert abs(Fraction(dts * SECOND_US, HZ) - expected_us) <= len(stamps) + 1


@given(st.lists(jump_ticks(), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3))
def test_times_rise_and_every_seam_is_known(jumps: list[int], delay: int, later_delay: int) -> None:
    """Parts of 10 keyframes, each shown `delay` frames after it is decoded, joined at any distance."""
    ours = clock()
    shown: list[int] = []
    breaks = set()
    start = 5 * HZ
    for part, jump in enumerate([0, *jumps]):
        start += jump
        shift = (later_delay if part else delay) * STEP
        for number in range(10):
            stamp = start + number * STEP
            pts, _ = ours.correct(stamp + shift, stamp, STEP, is_keyframe=True)
            assert pts is not None
            if len(ours.seams) > len(breaks):
                breaks.add(len(shown))
            shown.append(pts)
        start += 10 * STEP
    for place, (before, after) in enumerate(pairwise(shown), start=1):
        if place in breaks:
            assert after > before
            assert after - before <= STEP * (1 + abs(delay - later_delay))


@given(st.integers(-30, 30), st.integers(1, 20))
def test_a_clock_that_wraps_goes_on_without_a_seam(first: int, num_before: int) -> None:
    """ISO/IEC 13818-1: timestamps are of 33 bits, and that is no discontinuity."""
    ours, turn = clock(wraps=True), 1 << WRAP_BITS
    start = turn - num_before * STEP + first
    exact = [start + number * STEP for number in range(40)]
    corrected = [ours.correct(stamp % turn, stamp % turn, STEP, is_keyframe=False) for stamp in exact]
    dts = np.array([pair[1] for pair in corrected])
    assert np.all(np.diff(dts) == STEP)
    assert not ours.seams


@given(st.integers(3, 80), st.data())
def test_one_wrong_presentation_time_is_put_back(num_frames: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, num_frames - 2))
    error = data.draw(st.sampled_from([-1, 1])) * data.draw(st.integers(60, 12 * 3600)) * HZ
    stamps = [number * STEP for number in range(num_frames)]
    wrong = stamps[place] + error
    given_stamps = np.array([*stamps[:place], wrong, *stamps[place + 1 :]])
    repairs = find_outliers(given_stamps, 10 * HZ, is_reordered=False)
    assert repairs == {wrong: stamps[place]}


@given(st.lists(st.integers(1, 400), min_size=3, max_size=60))
def test_long_gaps_are_no_outliers(steps_s: list[int]) -> None:
    stamps = np.cumsum(steps_s) * HZ
    assert find_outliers(stamps, 10 * HZ, is_reordered=False) == {}


def test_a_frame_that_is_shown_last_may_come_before_others() -> None:
    """Frames in the order of decoding, before and behind a still of 25 s: the file is right."""
    stamps = np.array([0, 1, 2, 3, 1000, 4, 1001, 1002])
    assert find_outliers(stamps, 400, is_reordered=True) == {}


def decoded(path: Path, rate_fps: float | None) -> tuple[VideoDecoder, np.ndarray, np.ndarray]:
    """The decoder after its end, times of its frames and their segments."""
    decoder = VideoDecoder(path, DecodeConfig(short_side_px=None, crop_px=None, rate_fps=rate_fps))
    chunks = list(decoder)
    times_us = np.concatenate([chunk.pts_us_N for chunk in chunks])
    return decoder, times_us, np.concatenate([chunk.segment_N for chunk in chunks])


JOINED = {"concat_same_time.ts", "concat_overlap.ts", "concat_jump_60s.ts"}


@pytest.fixture(scope="session")
def reported(shared_data: Path) -> Path:
    folder = shared_data / "reported" / "videos"
    if not folder.is_dir():
        pytest.skip(f"needs the test material in {folder}")
    return folder


def test_reported_files_give_the_frames_of_ffmpeg(reported: Path) -> None:
    for line in (reported / "expected.txt").read_text().splitlines()[1:]:
        name, num_frames, num_at_5, *size = line.split()
        for rate_fps, wanted in ((None, int(num_frames)), (5.0, int(num_at_5))):
            if name == "video_late.ts":  # the ffmpeg that counted had given up
                wanted = 75 if rate_fps is None else 15
            if name == "last_frame_far.mkv" and rate_fps is not None:  # it fills 11 hours with copies of a frame
                wanted = 21
            decoder, times_us, segments = decoded(reported / name, rate_fps)
            # ffmpeg's filter rounds to the nearest tick, the grid takes the first frame of each.
            tolerance = 0 if rate_fps is None else 1
            assert abs(len(times_us) - wanted) <= tolerance, name
            assert np.all(np.diff(times_us) > 0), name
            assert decoder.probe is not None
            if size:
                assert [str(decoder.probe.width), str(decoder.probe.height)] == size, name
            if name in JOINED:
                seam = np.flatnonzero(np.diff(segments)) + 1
                assert seam.tolist() == [wanted // 2], name
                assert decoder.report.verdict == "ok", name


def test_what_is_lost_is_counted_and_nothing_is_invented(reported: Path) -> None:
    missing = {"one_more_declared.avi": 1, "duration_of_the_uncut.flv": 1426}
    for name in (*JOINED, *missing, "wrap.ts", "video_late.ts", "last_frame_far.mkv"):
        report = decoded(reported / name, None)[0].report
        assert report.frames_missing == missing.get(name, 0), name


def test_gaps_do_not_make_a_video_long(reported: Path) -> None:
    found = probe(reported / "last_frame_far.mkv")
    assert found.verdict == "ok"
    assert found.duration_us is not None
    assert found.duration_us < 60 * SECOND_US


def test_a_frame_that_is_shown_for_hours_does_not_make_a_video_too_long(tmp_path: Path) -> None:
    """An MP4 whose last timestamp is wrong says of the frame before that it is shown for 11 hours."""
    frames = moving_square(20)
    path = encode(tmp_path / "far.mp4", frames, pts=[*range(19), 11 * 3600 * 25])
    decoder, times_us, _ = decoded(path, None)
    assert (decoder.report.verdict, len(times_us)) == ("ok", 20)


def test_parts_that_overlap_by_a_frame_have_times_that_rise(tmp_path: Path) -> None:
    """FFmpeg takes so small a step back for no discontinuity, and two frames have one timestamp."""
    first, second = (
        encode(tmp_path / f"{start}.ts", moving_square(25), pts=list(range(start, start + 25))) for start in (0, 24)
    )
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    decoder, times_us, _ = decoded(joined, None)
    assert (decoder.report.verdict, len(times_us)) == ("ok", 50)
    assert np.all(np.diff(times_us) > 0)


def remuxed(source: Path, target: Path, stamp: Callable[[int, Any], tuple[int, int]]) -> Path:
    """The packets of a video with other times: `stamp` returns presentation and decoding time of packet n."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(packet for packet in given.demux(video=0) if packet.size):
            packet.pts, packet.dts = stamp(number, packet)
            packet.stream = stream
            made.mux(packet)
    return target


@pytest.fixture(scope="module")
def reordered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 50 frames at 25/s with B-frames."""
    options = {"bf": "2", "b-adapt": "0"}
    return encode(tmp_path_factory.mktemp("reordered") / "b.mp4", moving_square(50), options=options)


@pytest.mark.parametrize("wrong", [0, 20, 49])
def test_one_wrong_timestamp_anywhere_costs_no_frame_no_break_and_no_hours(
    reordered: Path, tmp_path: Path, wrong: int
) -> None:
    def late(number: int, packet: Any) -> tuple[int, int]:
        return packet.pts + (number == wrong) * round(3600 / packet.time_base), packet.dts

    path = remuxed(reordered, tmp_path / "wrong.mp4", late)
    decoder, times_us, segments = decoded(path, None)
    assert (decoder.report.verdict, len(times_us), set(segments.tolist())) == ("ok", 50, {0})
    assert np.all(np.diff(times_us) > 0)
    assert 10 <= len(decoded(path, 5.0)[1]) <= 11
    assert decoder.probe is not None
    assert decoder.probe.duration_us == pytest.approx(2 * SECOND_US, abs=SECOND_US // 10)


def test_reordered_frames_with_the_times_of_decoding_are_one_segment(reordered: Path, tmp_path: Path) -> None:
    """Raw streams that were put into a container by file order; as MXF files of FFmpeg are."""
    path = remuxed(reordered, tmp_path / "order.mp4", lambda number, packet: (packet.dts, packet.dts))
    decoder, times_us, segments = decoded(path, None)
    assert len(times_us) == decoder.report.frames_expected - decoder.report.frames_dropped
    assert (decoder.report.verdict, set(segments.tolist())) == ("ok", {0})
    assert np.all(np.diff(times_us) > 0)


def test_ticks_of_an_avi_without_a_frame_are_no_lost_frames(tmp_path: Path) -> None:
    """An AVI's header counts ticks: here of 1/600 s, 24 a frame."""
    pts = [24 * number for number in range(30)]
    path = encode(tmp_path / "a.avi", moving_square(30), codec="mpeg4", fps=Fraction(600), pts=pts)
    report = decoded(path, None)[0].report
    assert (report.verdict, report.frames_expected, report.frames_decoded) == ("ok", 30, 30)


def test_a_seam_to_a_part_that_delays_its_frames_is_no_loss(reordered: Path, tmp_path: Path) -> None:
    first = encode(tmp_path / "first.ts", moving_square(25), options={"bf": "0"})
    second = remuxed(reordered, tmp_path / "second.ts", lambda number, packet: (packet.pts, packet.dts))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    decoder, times_us, segments = decoded(joined, None)
    assert (decoder.report.verdict, decoder.report.frames_missing, len(times_us)) == ("ok", 0, 75)
    assert set(segments.tolist()) == {0, 1}


def test_a_stream_without_times_is_as_long_as_its_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "raw.h264", moving_square(50), options={"bf": "2"})
    assert probe(path).duration_us == 2 * SECOND_US


def test_pictures_one_behind_the_other_are_a_video(tmp_path: Path) -> None:
    path = encode(tmp_path / "raw.mjpeg", moving_square(10), codec="mjpeg", pixel_format="yuvj420p")
    assert len(decoded(path, None)[1]) == 10
