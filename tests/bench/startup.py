"""How long commands take that make nothing: help, mistakes and plans. One JSON line a case.

    python -m tests.bench.startup --repetitions 5

Each case is a fresh Python; the fastest of the repetitions is given, for a machine is never quiet all the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from tests.conftest import ROOT

CASES = {
    "help": ["--help"],
    "wrong command": ["rnu"],
    "wrong recipe": ["run", "dmeo"],
    "help of a recipe": ["run", "demo", "--help"],
    "wrong flag": ["run", "demo", "--nosuch", "1"],
    "plan on an empty store": ["plan", "demo", "--store", "STORE"],
}
GOAL_S = {name: 0.5 if name in ("help", "wrong command", "wrong recipe") else 2.0 for name in CASES}


def measure(arguments: list[str], repetitions: int) -> tuple[float, float]:
    """Returns the least wall-clock seconds and the least CPU seconds of a command."""
    wall, cpu = [], []
    with tempfile.TemporaryDirectory() as empty:
        given = [f"{empty}/store" if word == "STORE" else word for word in arguments]
        for _ in range(repetitions):
            before, started = os.times(), time.perf_counter()
            command = [sys.executable, "-m", "pipeline.commands", *given]
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
            wall.append(time.perf_counter() - started)
            after = os.times()
            cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(wall), min(cpu)


def main() -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    for name, arguments in CASES.items():
        wall_s, cpu_s = measure(arguments, repetitions)
        line = {
            "benchmark": "startup",
            "case": name,
            "command": " ".join(["percepts", *arguments]),
            "seconds": round(wall_s, 3),
            "cpu_seconds": round(cpu_s, 3),
            "goal_seconds": GOAL_S[name],
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
