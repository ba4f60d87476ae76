"""A list on the disk is a list, and takes no memory for what it holds."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.disk_list import DiskList


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(), st.text(), st.tuples(st.binary(max_size=300)))))
def test_it_equals_a_list(items: list[object]) -> None:
    disk_list = DiskList(items)
    assert list(disk_list) == items
    assert list(reversed(disk_list)) == items[::-1]
    assert disk_list[1:-1:2] == items[1:-1:2]
    for number in range(-len(items), len(items)):
        assert disk_list[number] == items[number]
    for number in (len(items), -len(items) - 1):
        with pytest.raises(IndexError):
            disk_list[number]
    disk_list.append("more")
    assert (len(disk_list), disk_list[-1]) == (len(items) + 1, "more")


def test_members_are_not_in_memory() -> None:
    tracemalloc.start()
    try:
        disk_list = DiskList(f"{number:0200d}" for number in range(10_000))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(disk_list) == 10_000
    assert held_bytes < 30 * len(disk_list)
