"""What MLflow costs: the page of 300 runs beside plain MLflow's, and the share of a run that is spent on logging.

    python -m tests.bench.tracking                            # a quarter of an hour
    python -m tests.bench.tracking --runs 0 --pairs 3         # what logging costs a demo
    python -m tests.bench.tracking --runs 30 --recipe ""

The runs are those of a recipe with two stages, its results, table, data set and curves. The peer is a store of the same
MLflow that has as many runs, each with the same metrics, parameters, tags and data sets, written by MLflow's client
alone. Both are asked by the request of the page with the runs, in turn, from servers of their own.

Then a recipe runs with and without tracking in turn, each time from an empty store and in a process of its own. `share`
is how much longer tracking makes it, over the time that it then takes. One JSON line each.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.request import Request, urlopen

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.tracking import MlflowClient

from pipeline.commands.ui import HOST, QUIET, _free_port, _wait
from pipeline.engine.plan import Plan
from pipeline.engine.store import Store
from pipeline.engine.tracking import tracker as tracker_module
from tests.pipeline.engine.measured_stages import MeasureConfig, judge
from tests.pipeline.engine.toy_stages import CountConfig, count
from tests.pipeline.engine.tracked_runs import run

GOAL_SHARE = 0.05
PAGE = {"max_results": 100, "run_view_type": "ACTIVE_ONLY", "order_by": ["attributes.start_time DESC"]}
"""What MLflow's page of runs asks for, beside the experiment."""


def copy_plainly(source: MlflowClient, target: MlflowClient, experiment_id: str) -> tuple[str, int]:
    """Writes runs with the same content by MLflow's client alone; returns the experiment and the number of runs."""
    copied = target.create_experiment("plain")
    runs: list[Run] = []
    token = None
    while True:
        page = source.search_runs([experiment_id], max_results=500, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    for one in reversed(runs):
        info, data = one.info, one.data
        new = target.create_run(copied, info.start_time, data.tags, info.run_name).info.run_id
        metrics = [Metric(name, value, info.start_time, 0) for name, value in data.metrics.items()]
        params = [Param(name, value) for name, value in data.params.items()]
        target.log_batch(new, metrics, params, [RunTag("copied", "yes")])
        if one.inputs is not None and one.inputs.dataset_inputs:
            target.log_inputs(new, one.inputs.dataset_inputs)
        target.set_terminated(new, "FINISHED", info.end_time)
    return copied, len(runs)


@contextmanager
def served(uri: str) -> Iterator[str]:
    """Runs MLflow's server on a store, as `percepts ui` does; yields its address."""
    port = _free_port(0)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, **QUIET, "MLFLOW_BACKEND_STORE_URI": uri}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, start_new_session=True, **quiet) as server:
        try:
            _wait(server, port)
            yield f"http://{HOST}:{port}"
        finally:
            os.killpg(server.pid, 15)


def page_seconds(server: str, experiment_id: str) -> float:
    """Returns the time of the answer to the page's request."""
    question = json.dumps({"experiment_ids": [experiment_id], **PAGE}).encode()
    headers = {"Content-Type": "application/json"}
    started = time.perf_counter()
    with urlopen(Request(f"{server}/ajax-api/2.0/mlflow/runs/search", question, headers), timeout=300) as answer:
        assert len(json.load(answer)["runs"]) > 0
    return time.perf_counter() - started


def measure_page(num_runs: int, directory: str, repetitions: int) -> None:
    """Makes both stores, and prints how long each takes to answer."""
    store = Store.open(f"{directory}/store", create=True)
    for number in range(num_runs):
        plan = Plan("toy")
        plan.add(judge, MeasureConfig(skill=0.001 * number), numbers=plan.add(count, CountConfig(num=4)))
        tracked = run(plan, store)
    experiment_id, ours = tracked.tracker.experiment_id, store.default_tracking_uri
    plain = f"sqlite:///{directory}/plain.db"
    copied, num_all = copy_plainly(MlflowClient(ours), MlflowClient(plain), experiment_id)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    with served(ours) as our_server, served(plain) as plain_server:
        page_seconds(our_server, experiment_id), page_seconds(plain_server, copied)  # the first question opens files
        for _ in range(repetitions):
            seconds["ours"].append(page_seconds(our_server, experiment_id))
            seconds["plain"].append(page_seconds(plain_server, copied))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    line = {
        "benchmark": "tracking",
        "case": "page of runs",
        "runs_of_recipes": num_runs,
        "runs_in_all": num_all,
        "seconds": round(medians["ours"], 4),
        "seconds_plain_mlflow": round(medians["plain"], 4),
        "fastest": round(min(seconds["ours"]), 4),
        "fastest_plain_mlflow": round(min(seconds["plain"]), 4),
        "ratio": round(medians["plain"] / medians["ours"], 3),
    }
    print(json.dumps(line), flush=True)


def seconds_of(arguments: list[str]) -> float:
    """Runs a recipe in a process of its own, as a person does; returns how long it took."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline.commands", "run", *arguments], stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - started


def measure_share(arguments: list[str], directory: str, num_pairs: int) -> None:
    """Runs a recipe with and without tracking in turn, and prints the share of its time that tracking adds."""
    seconds: dict[str, list[float]] = {"tracked": [], "untracked": []}
    for pair in range(num_pairs):
        # Not always in the same order: the second of two finds files in the page cache.
        for name in sorted(seconds, reverse=bool(pair % 2)):
            how = [] if name == "tracked" else ["--no-tracking"]
            seconds[name].append(seconds_of([*arguments, *how, "--store", f"{directory}/{name}-{pair}"]))
    tracked, untracked = (statistics.median(seconds[name]) for name in ("tracked", "untracked"))
    line = {
        "benchmark": "tracking",
        "case": "share of a run",
        "command": shlex.join(["percepts", "run", *arguments]),
        "seconds": [round(value, 1) for value in seconds["tracked"]],
        "seconds_without": [round(value, 1) for value in seconds["untracked"]],
        "share": round(1 - untracked / tracked, 4),
        "goal": GOAL_SHARE,
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    """Prints a line for the page and one for the share."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--pairs", type=int, default=2, help="runs of the recipe with and without tracking")
    parser.add_argument("--directory", help="where the stores are made; default: a temporary directory")
    options = parser.parse_args()
    # MLflow measures the machine of every run by a thread of its own: with hundreds of runs in a process they add up.
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        if options.runs:
            with mock.patch.object(tracker_module, "SystemMetricsMonitor", mock.MagicMock()):
                measure_page(options.runs, directory, options.repetitions)
        if options.recipe:
            measure_share(shlex.split(options.recipe), directory, options.pairs)


if __name__ == "__main__":
    main()
