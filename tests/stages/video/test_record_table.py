"""Arrays of digests against dictionaries of strings."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.video.record_table import (
    COLUMNS,
    DigestOrder,
    RecordTable,
    digests,
    first_of_each,
    hex_column,
    hex_digits,
)

# Few, alike, and some that end in zeros, which NumPy leaves out of what it shows.
SHA256 = st.sampled_from(["00" * 31 + "01", "01" + "00" * 31, "01" * 16 + "00" * 16, "ff" * 32, "7f" * 32, "80" * 32])
VIDEOS = st.lists(SHA256, max_size=12)


@settings(max_examples=40, deadline=None)
@given(VIDEOS, VIDEOS)
def test_found_are_the_first_that_are_equal(videos: list[str], wanted: list[str]) -> None:
    found = DigestOrder(digests(videos)).find(digests(wanted))
    assert found.tolist() == [videos.index(video) if video in videos else -1 for video in wanted]


@settings(max_examples=40, deadline=None)
@given(VIDEOS)
def test_digits_come_back(videos: list[str]) -> None:
    assert hex_digits(digests(videos)) == videos
    assert hex_column(digests(videos)).to_pylist() == videos


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.one_of(SHA256, st.just("")), st.sampled_from(["ok", "rejected"])), max_size=12), VIDEOS)
def test_a_video_is_the_first_usable_row_with_its_content(rows: list[tuple[str, str]], taken_down: list[str]) -> None:
    table = pa.table(
        {
            "sha256": pa.array([sha256 for sha256, _ in rows], pa.string()),
            "verdict": pa.array([verdict for _, verdict in rows], pa.string()),
            "frames_expected": pa.array(range(len(rows)), pa.int64()),
        }
    ).select(COLUMNS)
    found = RecordTable.read([table.slice(0, 5), table.slice(5)], taken_down)
    expected: dict[str, int] = {}
    for number, (sha256, verdict) in enumerate(rows):
        if sha256 and verdict == "ok" and sha256 not in taken_down:
            expected.setdefault(sha256, number)
    assert found.videos.tolist() == list(expected.values())
    assert found.frames_R.tolist() == list(range(len(rows)))
    assert found.find(found.digest_R).tolist() == [expected.get(sha256, -1) for sha256, _ in rows]
    contents = [sha256 or number for number, (sha256, _) in enumerate(rows)]
    is_first = [contents.index(content) == number for number, content in enumerate(contents)]
    assert np.array_equal(first_of_each(found.digest_R), is_first)
