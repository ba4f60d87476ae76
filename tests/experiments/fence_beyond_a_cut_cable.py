"""A training worker that goes on beyond a cut cable, while its group begins again on the other host.

    python -m tests.experiments.fence_beyond_a_cut_cable

Two Ray hosts in network namespaces (`tests/two_hosts.py`), a core each; the head's is taken, so that the only worker of
the training sits on host 2. The cable is cut and the head's core set free: Ray gives host 2 up, and a new group goes on
from the checkpoint that the lost worker wrote last. That worker still has the store and trains on, until the fence
refuses it. Prints, as JSON, its checkpoints before and after the new group began, whether it lived, computed and wrote
after it was refused, and whether the model is that of an undisturbed run. Exit status 1 if the fence did not hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.engine.store import Store
from tests import two_hosts
from tests.conftest import ROOT
from tests.pipeline.test_two_hosts import manifest, recipe
from tests.stages.made_clips import make_clips

NUM_CLIPS, NUM_FRAMES = 12, 60
NUM_STEPS, CHECKPOINT_EVERY = 4000, 20
PATIENCE_S = 240.0
END_S = 1200.0
"""The run may take so long after the new group began, on a machine that is busy besides."""
QUIET_S = 5.0
"""The lost worker has stopped when it has computed nothing for so long."""
TAKE_A_CORE = """
import time, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(log_to_driver=False)
here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
ray.get(ray.remote(num_cpus=1)(lambda: time.sleep(3600)).options(scheduling_strategy=here).remote())
"""


def wait(what: str, happened: Callable[[], Any]) -> Any:
    """Returns the first true value; ends the process after `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := happened()):
        if time.monotonic() > deadline:
            sys.exit(f"no {what}")
        time.sleep(0.05)
    return value


def cpu_seconds(pid: int) -> float | None:
    """Returns the processor time of a process; None where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def read(path: Path) -> dict[str, Any]:
    """Reads a JSON file; empty where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def observe(hosts: two_hosts.TwoHosts, root: Path, command: list[str]) -> dict[str, Any]:
    """Runs the training, cuts the cable, and returns what became of the lost worker."""
    taker = hosts.on(1, sys.executable, "-c", TAKE_A_CORE, log=root / "taker.log")
    driver = hosts.on(1, *command, log=root / "log")

    def token() -> Path:
        return wait("token", lambda: next(iter(root.glob("disturbed/ray-train/*/writer.json")), None))

    lost = wait("first checkpoint", lambda: read(token()).get("writer"))
    progress = Path(f"{token()}.{lost}")
    wait("second checkpoint", lambda: read(progress).get("num_checkpoints", 0) >= 2)
    (pid,) = hosts.pids(2, "RayTrainWorker")
    hosts.cut()
    at_cut = read(progress)["num_checkpoints"]
    for each in hosts.pids(1, "-c"):
        if "NodeAffinity" in two_hosts.command_line(each):
            os.kill(each, 9)
    taker.wait()
    wait("new group", lambda: read(token()).get("writer") != lost)
    at_new, computed = read(progress)["num_checkpoints"], cpu_seconds(pid)
    quiet_since, last = time.monotonic(), computed
    while last is not None and time.monotonic() - quiet_since < QUIET_S:
        time.sleep(0.2)
        now = cpu_seconds(pid)
        if now is None or now - (last or 0.0) > 0.05:
            quiet_since, last = time.monotonic(), now
    at_refusal, is_alive = read(progress)["num_checkpoints"], last is not None
    status = driver.wait(END_S)
    return {
        "checkpoints of the lost worker": {"at the cut": at_cut, "new group": at_new, "refused": at_refusal},
        "lost worker": "alive and idle" if is_alive else "ended",
        "its seconds of computing after the new group began": round((last or 0.0) - (computed or 0.0), 2),
        "status of the run": status,
        "said": [line for line in (root / "log").read_text().splitlines() if "train" in line and "%" not in line][-8:],
    }


def main() -> int:
    """Prints the observations; returns the exit status."""
    if reason := two_hosts.missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        clips = make_clips(root / "clips", (NUM_FRAMES,) * NUM_CLIPS)
        steps = ("--pretrain.num-steps", str(NUM_STEPS), "--pretrain.checkpoint-every-steps", str(CHECKPOINT_EVERY))
        commands = [recipe(clips, root / name) for name in ("disturbed", "undisturbed")]
        for command in commands:
            for flag, value in zip(steps[::2], steps[1::2], strict=True):
                command[command.index(flag) + 1] = value
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with two_hosts.two_hosts() as hosts:
            seen = observe(hosts, root, [*commands[0], "--workers", "1", "--no-tracking"])
        print(json.dumps(seen, indent=2), flush=True)
        quiet = [*commands[1], "--workers", "1", "--in-process", "--no-tracking"]
        done = subprocess.run(quiet, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the undisturbed run ended with {done.returncode}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
        models = []
        for name in ("disturbed", "undisturbed"):
            store = Store(str(root / name))
            models.append(Path(store.directory("pretrain", manifest(store, "pretrain").key), "model.safetensors"))
        seen["model as undisturbed, to the byte"] = models[0].read_bytes() == models[1].read_bytes()
        print("model as undisturbed, to the byte:", seen["model as undisturbed, to the byte"])
    counts = seen["checkpoints of the lost worker"]
    holds = counts["refused"] - counts["new group"] <= 1 and counts["at the cut"] < counts["new group"]
    return 0 if holds and seen["status of the run"] == 0 and seen["model as undisturbed, to the byte"] else 1


if __name__ == "__main__":
    sys.exit(main())
