"""System metrics of the nodes of a cluster, from the pages that Ray serves on them."""

from __future__ import annotations

import os
import time

import pytest

from cluster.session import Session
from pipeline.core.events import NodeUsage

PAGE = """\
# TYPE ray_node_cpu_utilization gauge
ray_node_cpu_utilization{SessionName="s",ip="10.0.0.2"} 62.5
ray_node_mem_used{ip="10.0.0.2"} 4e+09
ray_node_mem_total{ip="10.0.0.2"} 1.6e+10
ray_node_disk_utilization_percentage{ip="10.0.0.2"} 31.24
ray_node_gpus_utilization{GpuDeviceName="NVIDIA H100",GpuIndex="0",ip="10.0.0.2"} 93.0
ray_node_gram_used{GpuDeviceName="NVIDIA H100",GpuIndex="0",ip="10.0.0.2"} 20000.0
ray_node_gram_available{GpuDeviceName="NVIDIA H100",GpuIndex="0",ip="10.0.0.2"} 60000.0
ray_node_gpus_utilization{GpuDeviceName="NVIDIA H100",GpuIndex="1",ip="10.0.0.2"} 0.0
ray_percepts_frames_total{stage="extract"} 7.0
"""


def test_a_page_gives_the_names_that_mlflow_has() -> None:
    from cluster.node_usage import usage_of

    assert usage_of(PAGE) == {
        "cpu_utilization_percentage": 62.5,
        "system_memory_usage_megabytes": 4000.0,
        "system_memory_usage_percentage": 25.0,
        "disk_usage_percentage": 31.2,
        "gpu_0_utilization_percentage": 93.0,
        "gpu_0_memory_usage_megabytes": 20971.5,
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_1_utilization_percentage": 0.0,
    }
    assert usage_of("") == {}


def test_nodes_that_share_a_host_have_names_of_their_own() -> None:
    from cluster.node_usage import names_of

    hosts = {"aaaaaaaa": "one", "bbbbbbbb": "two", "cccccccc": "two"}
    nodes = [{"NodeID": node, "NodeManagerHostname": host} for node, host in hosts.items()]
    assert list(names_of(nodes)) == ["one", "two-bbbbbb", "two-cccccc"]


@pytest.mark.ray
def test_a_node_that_is_not_the_drivers_is_measured_while_the_session_lasts(
    ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one node of the tests' Ray, taken for another."""
    from cluster import node_usage

    monkeypatch.setattr(node_usage, "node_id", lambda: "elsewhere")
    monkeypatch.setattr(node_usage, "SECONDS_BETWEEN_SAMPLES", 0.2)
    sampler, deadline = node_usage.NodeSampler(), time.monotonic() + 240
    samples: list[NodeUsage] = []
    while not samples:  # Ray fills the page some seconds after its start
        assert time.monotonic() < deadline, "no sample of the node"
        samples += [event for event in sampler.take() if isinstance(event, NodeUsage)]
        time.sleep(0.1)
    sampler.close()
    usage = samples[0].values
    assert 0 <= usage["cpu_utilization_percentage"] <= 100
    assert 0 < usage["disk_usage_percentage"] <= 100
    assert usage["system_memory_usage_megabytes"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert 0 < usage["system_memory_usage_percentage"] <= 100
    assert ray_session.nodes.take() == []  # MLflow measures the driver's own node
