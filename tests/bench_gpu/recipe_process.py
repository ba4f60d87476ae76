"""A recipe that a benchmark runs. Its own words go to stderr: stdout is for the benchmark's JSON lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from pipeline.run import main

ENTRY = Path(__file__).resolve().parents[2] / "pipeline" / "run.py"


def run_recipe(arguments: Sequence[str], *, is_rehearsal: bool) -> None:
    """Runs a recipe in a process of its own, which has the GPU's memory to itself; rehearsed, in this one."""
    if is_rehearsal:
        with redirect_stdout(sys.stderr):
            main(arguments)
    else:
        subprocess.run([sys.executable, str(ENTRY), *arguments], stdout=sys.stderr, check=True)
