"""The use of processors, memory, disk and GPUs on the other machines of a cluster, while a run works on them.

Each node's Ray has a page with these figures, which Prometheus reads too. The driver reads it at intervals, so that
nothing more runs on the nodes. MLflow measures the driver's own machine by itself.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.request import ProxyHandler, build_opener

from cluster.placement import alive_nodes, node_id
from pipeline.core.events import Event, NodeUsage

SECONDS_BETWEEN_SAMPLES: Final = 10.0
SECONDS_PER_NODE: Final = 0.5
"""With many nodes samples are rarer: MLflow takes each of them, and so does its database."""
TIMEOUT_S: Final = 2.0
MAX_FAILURES: Final = 3
"""Requests in a row that a node may leave without an answer before there are no more."""
SAMPLE: Final = re.compile(r"ray_node_(\w+)\{(.*)\} (\S+)")
GPU: Final = re.compile(r'GpuIndex="(\d+)"')


def usage_of(page: str) -> dict[str, float]:
    """Reads a node's page; returns MLflow's names of system metrics -> percent, or megabytes where the name says so."""
    values: dict[tuple[str, str], float] = {}
    for line in page.splitlines():
        if match := SAMPLE.fullmatch(line):
            gpu = GPU.search(match[2])
            values[match[1], gpu[1] if gpu else ""] = float(match[3])
    usage: dict[str, float] = {}

    def add(name: str, value: float | None, scale: float = 1.0) -> None:
        if value is not None:
            usage[name] = round(value * scale, 1)

    def share(used: float | None, total: float) -> float | None:
        return None if used is None or total <= 0 else 100 * used / total

    memory = values.get(("mem_used", ""))
    add("cpu_utilization_percentage", values.get(("cpu_utilization", "")))
    add("system_memory_usage_megabytes", memory, 1e-6)
    add("system_memory_usage_percentage", share(memory, values.get(("mem_total", ""), 0.0)))
    add("disk_usage_percentage", values.get(("disk_utilization_percentage", "")))
    for number in sorted({index for _, index in values if index}):
        name, used = f"gpu_{number}", values.get(("gram_used", number))  # MiB
        add(f"{name}_utilization_percentage", values.get(("gpus_utilization", number)))
        add(f"{name}_memory_usage_megabytes", used, 2**20 / 1e6)
        add(f"{name}_memory_usage_percentage", share(used, (used or 0.0) + values.get(("gram_available", number), 0.0)))
    return usage


def names_of(nodes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns name -> Ray's description: the host's name, with the beginning of the node's id if two share a host."""
    counts = Counter(node["NodeManagerHostname"] for node in nodes)

    def name(node: Mapping[str, Any]) -> str:
        host = str(node["NodeManagerHostname"])
        return host if counts[host] == 1 else f"{host}-{node['NodeID'][:6]}"

    return {name(node): node for node in nodes}


class NodeSampler:
    """A thread that samples every node but this one until it is stopped."""

    def __init__(self) -> None:
        self._usage: list[Event] = []
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._failures: Counter[str] = Counter()
        self._open: Callable[..., Any] = build_opener(ProxyHandler({})).open
        self._thread = threading.Thread(target=self._run, name="node usage", daemon=True)
        self._thread.start()

    def take(self) -> list[Event]:
        """Returns the samples since the last call."""
        with self._lock:
            taken, self._usage = self._usage, []
        return taken

    def close(self) -> None:
        """Ends the thread; to be called before Ray is left."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        here, pause_s = node_id(), 0.0
        while not self._stopping.wait(pause_s):
            try:
                nodes = names_of(alive_nodes())
            except Exception:  # noqa: BLE001  # by place: the head is gone, which ends the run, and what it says is said
                return
            others = {name: node for name, node in nodes.items() if node["NodeID"] != here and node["Resources"]}
            for name, node in others.items():
                self._sample(name, node)
            pause_s = max(SECONDS_BETWEEN_SAMPLES, SECONDS_PER_NODE * len(others))

    def _sample(self, name: str, node: Mapping[str, Any]) -> None:
        if self._stopping.is_set() or self._failures[name] >= MAX_FAILURES:
            return
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with self._open(address, timeout=TIMEOUT_S) as answer:
                usage = usage_of(answer.read().decode())
        except (OSError, ValueError) as error:
            self._failures[name] += 1
            if self._failures[name] == MAX_FAILURES:
                sys.stderr.write(f"no system metrics of node {name}: {address} does not answer ({error})\n")
            return
        self._failures[name] = 0
        if usage:
            with self._lock:
                self._usage.append(NodeUsage(source=name, values=usage))
