"""The small demo, submitted from one host to the head on another, beside the same run on a single host.

    python -m tests.experiments.demo_on_two_hosts                # from host 2, undisturbed
    python -m tests.experiments.demo_on_two_hosts --lose-nodes   # and once more: host 2 is lost in each stage, and back
    python -m tests.experiments.demo_on_two_hosts --stop         # once more: stopped in pretraining, submitted again
    python -m tests.experiments.demo_on_two_hosts --lose-forecast   # only the forecast, made again, loses host 2

Two Ray hosts in network namespaces (`tests/two_hosts.py`), a core each. Prints what was refused without the token,
which stages lost a worker, which artifacts differ, and what the two reports say differently, as JSON.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.workers import _WorkerActor
from pipeline.engine.store import Store
from tests import two_hosts
from tests.conftest import ROOT
from tests.two_hosts import BIN, HEAD, TwoHosts

DASHBOARD = "http://10.99.0.1:8265"
RECIPE = [
    "demo",
    *("--corpus.num-unlabelled", "160", "--corpus.num-train", "80", "--corpus.num-test", "80"),
    *("--extract.shard-frames", "256", "--pretrain.num-steps", "400", "--pretrain.checkpoint-every-steps", "20"),
    *("--workers", "2", "--log", "json"),
]
WORKING = (f"{_WorkerActor.__name__}.apply", "RayTrainWorker")
"""Titles of processes that work for a stage."""
LOSSES = ("node was lost", "lost a training worker", "died while it started")
HOLD = """
import ray, time
ray.init()
ray.get(ray.remote(num_cpus=1, resources={"node:10.99.0.1": 0.001})(lambda: time.sleep(600)).remote())
"""
"""Takes the only core of host 1, so that a worker has to go to host 2."""
HELD = "ray::<lambda>"
MAX_TRIES, PAUSE_S = 3, 15.0
"""A worker on host 2 may be one of another stage: then host 2 is taken away again after a pause, seconds."""
WRONG = ("env", f"RAY_AUTH_TOKEN={'0' * 48}")
MASKS = (
    (r"\d+(\.\d+)?(?= ?(ms|s|min|h|MB|kB|GB|bytes|GPU-hours|core-hours)\b)", "#"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\+00:00| UTC)?", "TIME"),
)
"""Durations, sizes and dates, which no two runs have in common."""


def ask(hosts: TwoHosts, state: Path, *command: str) -> tuple[int, str]:
    """Runs a command on host 2; returns its status and what it said."""
    log = state / "asked.log"
    log.unlink(missing_ok=True)
    status = hosts.on(2, *command, log=log).wait(180)
    return status, log.read_text()


def refusals(hosts: TwoHosts, state: Path) -> dict[str, str]:
    """What the job API, the client and the dashboard say to another token."""
    look = f"import urllib.request as u; u.urlopen('{DASHBOARD}/api/jobs/').read()"
    submit = (*WRONG, "percepts", "submit", *RECIPE, "--store", str(state / "refused"), "--dashboard", DASHBOARD)
    client = (*WRONG, "percepts", "run", *RECIPE, "--store", str(state / "refused"), "--address", HEAD, "--no-tracking")
    said = {}
    for name, command in {
        "job API": submit,
        "client": client,
        "dashboard": ("env", "-u", "RAY_AUTH_TOKEN", sys.executable, "-c", look),
    }.items():
        status, text = ask(hosts, state, *command)
        said[name] = f"status {status}: {(text.strip().splitlines() or [''])[-1][:160]}"
    return said


def events(log: Path, driver: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The events of a run, as they are written, until the driver ends."""
    seen = 0
    while True:
        ended = driver.poll() is not None
        text = log.read_bytes() if log.exists() else b""
        complete = text[: text.rfind(b"\n") + 1]
        for line in complete[seen:].splitlines():
            if line.startswith(b"{"):
                yield json.loads(line)
        seen = len(complete)
        if ended:
            return
        yield {"event": "nothing"}
        time.sleep(0.1)


def disturb(hosts: TwoHosts, log: Path, driver: subprocess.Popen[bytes]) -> list[str]:
    """Takes host 2 away, and back, while it works for each stage in turn; returns the stages that lost something."""
    running: set[str] = set()
    tried: Counter[str] = Counter()
    lost: list[str] = []
    for event in events(log, driver):
        stage = str(event.get("stage", "")).partition(" ")[0]  # the three arms are one stage
        if event["event"] == "progress" and event["done"] < event["total"]:
            running.add(stage)
        elif event["event"] == "made":
            running.discard(stage)
        elif event["event"] == "log" and any(words in event["line"] for words in LOSSES):
            lost.append(stage)
            sys.stderr.write(f"{event['time'][11:19]} {stage}: {event['line'][:150]}\n")
        open_stages = [name for name in running if name not in lost and tried[name] < MAX_TRIES]
        if event["event"] == "nothing" and open_stages and any(hosts.pids(2, title) for title in WORKING):
            tried.update(open_stages)
            hosts.new_host_2()
            time.sleep(PAUSE_S)
    return lost


def lose_forecast(hosts: TwoHosts, state: Path, store: Path) -> list[str]:
    """Makes the forecast of a finished store again, with its worker on host 2, which is lost; returns what was logged.

    In a whole run its one worker starts on either host, and is done before anything can be taken away from it.
    """
    shutil.rmtree(store / "forecast")
    holder = hosts.on(1, sys.executable, "-c", HOLD, log=state / "holder.log")
    try:
        wait_for(lambda: hosts.pids(1, HELD))
        log = state / "forecast.log"
        submit = ["percepts", "submit", *RECIPE, "--store", str(store), "--dashboard", DASHBOARD, "--wait"]
        driver = hosts.on(1, *submit, log=log)
        wait_for(lambda: hosts.pids(2, _WorkerActor.__name__))
        hosts.new_host_2()
        seen = list(events(log, driver))
    finally:
        holder.kill()
        holder.wait()
    lines = [event["line"] for event in seen if event["event"] == "log" and event["stage"] == "forecast"]
    return [f"status {driver.returncode}", *(line for line in lines if any(words in line for words in LOSSES))]


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until something is so. Raises TimeoutError after two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("what the experiment waited for did not come")
        time.sleep(0.05)


def stopped(hosts: TwoHosts, log: Path, driver: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Stops the job after 100 steps of pretraining, as `percepts submit` says; returns what was said."""
    for event in events(log, driver):
        if event["event"] == "progress" and event["stage"].startswith("pretrain") and event["done"] >= 100:
            break
    job = re.findall(r"^submitted (\S+) to ", log.read_text(), re.MULTILINE)[0]
    _, said = ask(hosts, log.parent, "ray", "job", "stop", "--address", DASHBOARD, job)
    return {"status of the follower": driver.wait(180), "said": said.strip().splitlines()[-1], "job": job}


def words(store: Path) -> list[str]:
    """What the report of a store says, without times, sizes and places."""
    report = max((store / "reports").glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    text = re.sub(r"<(script|style|svg).*?</\1>", "", report.read_text(), flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]*>", "\n", text)).replace(str(store), "STORE")
    for pattern, mask in MASKS:
        text = re.sub(pattern, mask, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """Which artifacts of two stores differ, and which lines of their reports."""
    made = [
        {m.name: (m.key, {n: f.sha256 for n, f in m.outputs.items()}) for m in Store(str(s)).manifests()}
        for s in (ours, theirs)
    ]
    differ = sorted(name for name in made[0].keys() | made[1].keys() if made[0].get(name) != made[1].get(name))
    lines = [words(ours), words(theirs)]
    return {
        "artifacts": len(made[0]),
        "differ": differ,
        "lines of the report": len(lines[0]),
        "only there": sorted(set(lines[0]) - set(lines[1])),
        "only in the single host's": sorted(set(lines[1]) - set(lines[0])),
    }


def submitted(
    hosts: TwoHosts, state: Path, store: Path, *, lose_nodes: bool = False, stop: bool = False
) -> dict[str, Any]:
    """Submits the demo and waits for its end; returns what happened."""
    log, started = state / f"{store.name}.log", time.monotonic()
    submit = ["percepts", "submit", *RECIPE, "--store", str(store), "--dashboard", DASHBOARD, "--wait"]
    before: dict[str, Any] = {}
    if stop:
        first = state / f"{store.name}-stopped.log"
        before = {"stopped": stopped(hosts, first, hosts.on(2, *submit, log=first))}
    # The host that submits is not the one that is lost.
    driver = hosts.on(1 if lose_nodes else 2, *submit, log=log)
    lost = disturb(hosts, log, driver) if lose_nodes else []
    worked = lose_nodes
    while driver.poll() is None:
        worked = worked or any(hosts.pids(2, title) for title in WORKING)
        time.sleep(0.3)
    if driver.returncode:
        sys.stderr.write(log.read_text()[-6000:])
    seconds = round(time.monotonic() - started)
    if stop:
        again = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        before["reused"] = sorted(event["stage"] for event in again if event["event"] == "reused")
        before["resumed"] = [e["line"] for e in again if e["event"] == "log" and "resuming from" in e["line"]]
    return {"status": driver.returncode, "seconds": seconds, "host 2 worked": worked, "lost a node": lost, **before}


def main() -> int:
    """Runs all; returns 0 if everything ended well and nothing but times differs in the undisturbed run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lose-nodes", action="store_true", help="A second run loses host 2 once in each stage.")
    parser.add_argument("--stop", action="store_true", help="A run is stopped in pretraining and submitted again.")
    parser.add_argument("--lose-forecast", action="store_true", help="Only the forecast loses host 2.")
    options = parser.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    runs: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        with two_hosts.two_hosts() as hosts:
            refused = refusals(hosts, state)
            runs["undisturbed"] = submitted(hosts, state, state / "undisturbed")
            if options.stop:
                runs["stopped"] = submitted(hosts, state, state / "stopped", stop=True)
            if options.lose_nodes:
                runs["disturbed"] = submitted(hosts, state, state / "disturbed", lose_nodes=True)
            last = next(reversed(runs))
            wanted = (options.lose_nodes or options.lose_forecast) and runs[last]["status"] == 0
            if wanted and "forecast" not in runs[last]["lost a node"]:
                runs[last]["forecast"] = lose_forecast(hosts, state, state / last)
        single = ["percepts", "run", *RECIPE, "--store", str(state / "alone"), "--num-cpus", "2"]
        with (state / "alone.log").open("wb") as output:
            done = subprocess.run(single, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False)
        if done.returncode:
            sys.stderr.write((state / "alone.log").read_text()[-3000:])
            return 1
        for name, run in runs.items():
            if run["status"] == 0:
                run |= compare(state / name, state / "alone")
    sys.stdout.write(json.dumps({"refused": refused, **runs}, indent=1) + "\n")
    return 1 if any(run["status"] for run in runs.values()) or runs["undisturbed"]["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
