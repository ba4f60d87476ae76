"""Shows what a run of a recipe would make and why, and what it would take. Starts nothing.

percepts plan demo
percepts plan youtube --videos clips/ --plan-hours 300 --gpu-frames-per-s 2000 --price-per-gpu-hour 2.5
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.commands import run


def main(arguments: Sequence[str]) -> int:
    """Prints the plan of a recipe, as `percepts run RECIPE --plan` does. Returns the exit status."""
    return run.main([*arguments, "--plan"] if arguments else arguments, "percepts plan")
