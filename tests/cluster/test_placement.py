"""Requests that no node of a cluster can meet are refused before a stage begins."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from cluster import placement
from cluster.placement import check_cluster, each_node, take_what_is_there
from pipeline.core.errors import UsageError
from pipeline.core.stage import Resources


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two machines of a cluster that does not grow."""
    machines = [{"Resources": {"CPU": 2.0}}, {"Resources": {"CPU": 8.0, "GPU": 1.0}}]
    monkeypatch.setattr(placement, "alive_nodes", lambda: machines)
    monkeypatch.setattr(placement, "may_grow", lambda: False)
    monkeypatch.setattr(placement, "JOIN_SECONDS", 0.0)
    return machines


@pytest.mark.parametrize(
    "fits",
    [
        Resources(num_workers=99),
        Resources(min_workers=10, num_workers=10),
        Resources(cpus_per_worker=8.0),
        Resources(gpus_per_worker=1.0),
        Resources(min_workers=3, num_workers=3, gpus_per_worker=1 / 3),
    ],
)
def test_what_the_nodes_hold(nodes: list[dict[str, Any]], fits: Resources) -> None:
    check_cluster([Resources(), fits])


@pytest.mark.parametrize(
    ("too_much", "words"),
    [
        (Resources(cpus_per_worker=9.0), "1 workers of 9 cores .* holds 0 .*2 nodes of at most 8 cores and 1 GPUs"),
        (Resources(gpus_per_worker=2.0), "1 workers of 1 cores and 2 GPUs"),
        (Resources(min_workers=2, num_workers=2, gpus_per_worker=1.0), "2 workers .* holds 1 of them"),
        (Resources(min_workers=3, num_workers=4, cpus_per_worker=4.0), "3 workers of 4 cores .* holds 2 of them"),
    ],
)
def test_what_they_do_not_is_one_line(nodes: list[dict[str, Any]], too_much: Resources, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        check_cluster([Resources(), too_much])
    assert "\n" not in str(error.value)


def test_auto_takes_what_the_nodes_hold_when_a_stage_begins(
    nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Resources(is_auto_workers=True, is_auto_gpus=True)
    taken, words = take_what_is_there(asked)
    assert taken == Resources(num_workers=1, gpus_per_worker=1.0)
    assert words == "takes 1 x 1 GPU, what the cluster's 2 nodes hold"
    assert take_what_is_there(Resources(is_auto_workers=True))[0] == Resources(num_workers=10)
    nodes[:] = [{"Resources": {"CPU": 0.0, "memory": 1e9}}]  # a head that works not, before the autoscaler adds nodes
    monkeypatch.setattr(placement, "may_grow", lambda: True)
    taken, words = take_what_is_there(asked)
    assert taken == Resources(num_workers=2)
    assert "--workers N asks its autoscaler for more" in words


def test_a_cluster_that_grows_and_a_node_that_joins_are_given_the_chance(
    nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "may_grow", lambda: True)
    check_cluster([Resources(gpus_per_worker=8.0)])
    monkeypatch.setattr(placement, "may_grow", lambda: False)
    monkeypatch.setattr(placement, "JOIN_SECONDS", 60.0)
    monkeypatch.setattr(placement.time, "sleep", lambda _: nodes.append({"Resources": {"CPU": 2.0, "GPU": 8.0}}))
    check_cluster([Resources(gpus_per_worker=8.0)])


def test_actors_that_reserve_nothing_lie_on_all_nodes_with_cores_in_turn(nodes: list[dict[str, Any]]) -> None:
    first, head, second = (digit * 56 for digit in "abc")
    cores = {first: 2.0, head: 0.0, second: 8.0}
    nodes[:] = [{"NodeID": name, "Resources": {"CPU": number}} for name, number in cores.items()]
    places = [place.node_id for place in itertools.islice(each_node(), 5)]
    assert places == [first, second, first, second, first]
    nodes[:] = [{"NodeID": "head", "Resources": {}}]
    assert next(each_node(), "anywhere") == "anywhere"
