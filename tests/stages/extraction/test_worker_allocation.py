"""Who does an extraction: cores are used and never promised twice, and helpers always find one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError
from pipeline.core.stage import Resources
from pipeline.core.workers import ClusterNode
from stages.extraction.shard_task import Timings, describe_timings, sum_timings
from stages.extraction.worker_allocation import allocate_workers


def on(num_workers: int = 2, gpus: float = 0.0, decoders: int | None = None) -> Resources:
    return Resources(num_workers=num_workers, gpus_per_worker=gpus, decoders_per_gpu=decoders)


def test_on_cpus_all_cores_are_shared_out() -> None:
    two = allocate_workers(on(2), [ClusterNode(2)], num_shards=9)
    assert (two.num_workers, two.cpus_per_worker, two.num_threads, two.num_decoders) == (2, 1, 1, 2)
    # One shard is one worker's: it takes both cores.
    alone = allocate_workers(on(2), [ClusterNode(2)], num_shards=1)
    assert (alone.num_workers, alone.cpus_per_worker, alone.num_threads) == (1, 2, 2)
    assert allocate_workers(on(2), [ClusterNode(64)], num_shards=9).num_threads == 32
    # A worker stays on one node: three workers of 16 cores do not fit on 16 + 16.
    assert allocate_workers(on(3), [ClusterNode(16), ClusterNode(16)], num_shards=9).num_threads == 8


def test_a_gpu_is_fed_by_the_cores_beside_it_and_by_nodes_without_gpus() -> None:
    def summary(*nodes: ClusterNode, decoders: int | None = None, num_workers: int = 1) -> tuple[float, int, int, bool]:
        allocation = allocate_workers(on(num_workers, gpus=1, decoders=decoders), nodes, num_shards=9)
        assert allocation.num_workers == num_workers
        return (
            allocation.cpus_per_worker,
            allocation.num_decoders,
            allocation.num_processes,
            allocation.decodes_elsewhere,
        )

    # Two threads do as much as two cores can; more are processes of the worker.
    assert summary(ClusterNode(3, 1)) == (3, 2, 0, False)
    assert summary(ClusterNode(4, 1)) == (4, 3, 3, False)
    assert summary(ClusterNode(16, 1)) == (16, 15, 15, False)
    assert summary(ClusterNode(16, 1), decoders=3) == (4, 3, 3, False)
    assert summary(ClusterNode(8, 2), ClusterNode(32), ClusterNode(32), num_workers=2) == (4, 3 + 32, 3, True)
    # No core beside the one that feeds the GPU: all frames come from the other node.
    assert summary(ClusterNode(1, 1), ClusterNode(4)) == (1, 4, 0, True)
    # Cores that decode, and not more of them than there are.
    assert summary(ClusterNode(4, 1), decoders=9) == (4, 3, 3, False)
    assert summary(ClusterNode(1, 1)) == (1, 1, 0, False)


def test_cores_that_an_extraction_uses_are_counted_once() -> None:
    assert allocate_workers(on(1, gpus=1), [ClusterNode(16, 1)], num_shards=9).num_cores == 16
    assert allocate_workers(on(1, gpus=1), [ClusterNode(4, 1), ClusterNode(8)], num_shards=9).num_cores == 4 + 8


def test_a_knob_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="decoders_per_gpu is 0; it must be at least 1"):
        on(decoders=0)


@given(
    st.lists(st.builds(ClusterNode, st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(1, 9),
    st.none() | st.integers(1, 9),
    st.integers(0, 20),
    st.booleans(),
)
def test_helpers_always_find_a_core(
    nodes: list[ClusterNode], num_workers: int, decoders: int | None, num_shards: int, on_gpus: bool
) -> None:
    num_gpus = sum(node.num_gpus for node in nodes)
    allocation = allocate_workers(on(num_workers, 1.0 if on_gpus and num_gpus else 0.0, decoders), nodes, num_shards)
    # Workers that Ray will start at all, as far as there are GPUs for them.
    started = min(allocation.num_workers, num_gpus) if allocation.gpus_per_worker else allocation.num_workers
    assert allocation.num_workers >= 1
    assert allocation.cpus_per_worker <= max(node.num_cpus for node in nodes)
    if allocation.decodes_elsewhere:
        assert started * allocation.cpus_per_worker < sum(node.num_cpus for node in nodes)


def test_the_bottleneck_in_one_line() -> None:
    starved = Timings(
        num_frames=1000,
        seconds=10.0,
        convnet_s=5.0,
        waited_s=4.6,
        writer_s=0.1,
        decode_core_s=16.0,
        decoder_s=20.0,
    )
    both = sum_timings([starved, starved])
    assert both.num_frames == 2000
    assert describe_timings(both, worker="GPU") == (
        "convnet waits 46% for decoders: a GPU could use 3.2 decoding cores, and has 2"
        " (convnet busy 50%, decoders 80%, writer 1%)"
    )
    fed = Timings(num_frames=1000, seconds=10.0, convnet_s=9.9, waited_s=0.05, decode_core_s=0.6, decoder_s=20.0)
    assert describe_timings(fed, worker="worker").startswith(
        "convnet busy 99%, decoders 3%, writer 0%: a worker could use 0.1 decoding cores"
    )
    assert describe_timings(Timings(), worker="GPU")
