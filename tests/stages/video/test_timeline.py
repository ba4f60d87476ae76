"""The account against a bookkeeper that is too simple to be wrong: it looks at one slot at a time, afterwards."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.video.timeline import FrameAccount, Grid, Timeline, spread_repeats, to_us

STEP_US = 40_000


def timeline(
    num_slots: int, *, unreadable: set[int] = frozenset(), num_hidden: int = 0, exact: bool = True
) -> Timeline:
    readable = np.array([slot not in unreadable for slot in range(num_slots)], np.bool_)
    pts = np.arange(num_slots, dtype=np.int64) * 512
    return Timeline(np.arange(num_slots) * STEP_US, readable, pts if exact else None, num_hidden)


@given(st.integers(-(2**62), 2**62), st.fractions(Fraction(1, 10**7), 100))
def test_microseconds_are_those_of_exact_arithmetic(stamp: int, time_base: Fraction) -> None:
    assert to_us(stamp, time_base) == round(stamp * time_base * 1_000_000)


@given(st.integers(-1000, 1000))
def test_half_microseconds_go_to_the_even_one(stamp: int) -> None:
    assert to_us(stamp, Fraction(1, 2_000_000)) == round(Fraction(stamp, 2))


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 3))
def test_exact_timeline_finds_every_gap(came_out: list[bool], num_hidden: int) -> None:
    account = FrameAccount(timeline(len(came_out), num_hidden=num_hidden), None)
    account.error()
    places = {}
    for slot, came in enumerate(came_out):
        if came:
            places[slot] = account.place(slot * 512, slot * STEP_US)
    account.close()
    num_lost = came_out.count(False)
    assert (account.expected, account.decoded) == (len(came_out) + num_hidden, sum(came_out))
    assert (account.dropped, account.missing) == (num_hidden, num_lost)
    kept = sorted(places)
    for before, after in pairwise(kept):
        is_gap = after - before > 1
        assert places[after].index - places[before].index == after - before
        assert places[after].segment - places[before].segment == is_gap


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from([5.0, 10.0, 12.5, 25.0, 60.0]))
def test_sampled_account_closes_and_counts_only_sampled_losses(came_out: list[bool], rate: float) -> None:
    account = FrameAccount(timeline(len(came_out)), rate)
    account.damaged = True
    indices = []
    for slot, came in enumerate(came_out):
        if came:
            place = account.place(slot * 512, slot * STEP_US)
            if place.keep:
                indices.append(place.index)
    account.close()
    wanted = {
        min(s for s in range(len(came_out)) if int(s * 0.04 * rate + 1e-6) == tick)
        for tick in {int(s * 0.04 * rate + 1e-6) for s in range(len(came_out))}
    }
    assert account.decoded == sum(came_out[slot] for slot in wanted)
    assert account.missing == sum(not came_out[slot] for slot in wanted)
    assert account.expected == account.decoded + account.dropped + account.missing == len(came_out)
    order = sorted(wanted)
    assert indices == [order.index(slot) for slot in order if came_out[slot]]


def test_packets_without_a_picture_are_no_loss_as_long_as_nothing_is_damaged() -> None:
    fields = FrameAccount(timeline(10), None)
    places = [fields.place(slot * 512, None) for slot in range(0, 10, 2)]
    fields.close()
    assert [place.index for place in places] == [0, 1, 2, 3, 4]
    assert {place.segment for place in places} == {0}
    assert (fields.decoded, fields.dropped, fields.missing) == (5, 5, 0)


def test_unreadable_slots_are_missing_without_any_error() -> None:
    account = FrameAccount(timeline(6, unreadable={2, 5}), None)
    places = [account.place(slot * 512, None) for slot in (0, 1, 3, 4)]
    account.close()
    assert [(place.index, place.segment) for place in places] == [(0, 0), (1, 0), (3, 1), (4, 1)]
    assert (account.decoded, account.missing) == (4, 2)


def test_without_timestamps_an_error_stands_for_a_frame() -> None:
    account = FrameAccount(timeline(5, exact=False), None)
    first = account.place(None, None)
    account.error()
    second = account.place(None, None)
    account.close()
    assert (first.index, second.index, second.segment, second.time_us) == (0, 2, 1, 2 * STEP_US)
    assert (account.decoded, account.missing, account.expected) == (2, 3, 5)


def test_more_frames_than_promised_are_counted() -> None:
    account = FrameAccount(timeline(1), None)
    account.place(0, 0)
    account.place(512, STEP_US)
    account.close()
    assert (account.expected, account.decoded, account.missing) == (2, 2, 0)


def test_a_rejected_video_has_no_decoded_frames() -> None:
    account = FrameAccount(timeline(3), None)
    account.place(0, 0)
    account.close()
    account.reject()
    assert (account.expected, account.decoded, account.dropped, account.missing) == (3, 0, 2, 1)


def test_grid_forgives_matroska_its_milliseconds() -> None:
    """30 frames/s rounded to milliseconds: every third frame is a tick of 10 frames/s."""
    grid = Grid(10.0, 0)
    taken = [number for number in range(90) if grid.take(round(number * 1000 / 30) * 1000)]
    assert taken == list(range(0, 90, 3))


def test_grid_never_repeats_a_frame_of_a_slow_video() -> None:
    grid = Grid(30.0, 5_000)
    assert all(grid.take(5_000 + number * 200_000) for number in range(10))


def test_a_frame_that_cannot_be_used_leaves_one_gap() -> None:
    account = FrameAccount(timeline(5), None)
    account.place(0, 0)
    account.error()
    account.place(2 * 512, 2 * STEP_US)
    account.retract()
    last = account.place(4 * 512, 4 * STEP_US)
    account.close()
    assert (last.index, last.segment) == (4, 1)
    assert (account.decoded, account.missing) == (2, 3)


def test_frames_out_of_order_are_not_used() -> None:
    """A frame for a slot that was given up stays missing; a second frame for a slot is one more than promised."""
    account = FrameAccount(timeline(4), None, keep_late=False)
    account.error()
    places = [account.place(slot * 512, None) for slot in (0, 2, 1, 2, 3)]
    account.close()
    assert [place.keep for place in places] == [True, True, False, False, True]
    assert [place.index for place in places if place.keep] == [0, 2, 3]
    assert (account.expected, account.decoded, account.dropped, account.missing) == (5, 3, 1, 1)


def test_frames_out_of_order_can_be_kept_by_themselves() -> None:
    account = FrameAccount(timeline(4), None)
    account.error()
    places = [account.place(slot * 512, None) for slot in (0, 2, 1, 2, 3)]
    account.close()
    assert all(place.keep for place in places)
    assert [place.segment for place in places] == [0, 1, 2, 3, 4]
    assert np.all(np.diff([place.index for place in places]) > 1)
    assert (account.expected, account.decoded, account.dropped, account.missing) == (5, 5, 0, 0)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 40_000))
def test_frames_of_one_time_are_spread_until_the_next(ticks: list[int], step_us: int) -> None:
    times_us = np.sort(np.array(ticks, np.int64)) * 40_000
    spread_us = spread_repeats(times_us, step_us)
    assert np.all(np.diff(spread_us) > 0)
    first = np.flatnonzero(np.diff(times_us, prepend=-1))
    assert np.array_equal(spread_us[first], times_us[first])
    assert np.all(spread_us - times_us <= max(step_us, len(ticks)))
