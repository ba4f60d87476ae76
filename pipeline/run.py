"""THE ENTRY of Ray jobs: makes what is missing of a recipe, and reports, as `percepts run` does.

ray job submit --working-dir . -- python pipeline/run.py demo --store /shared/percepts
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Python put pipeline/ itself on the path, where `core` or `engine` could shadow other packages.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(entry for entry in sys.path if Path(entry).resolve() != here)]

from pipeline.commands import run
from pipeline.options.command_line import run_command

PROGRAM = "python pipeline/run.py"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a recipe. Returns the exit status; raises UsageError and RunError."""
    return run.main(sys.argv[1:] if arguments is None else arguments, PROGRAM)


if __name__ == "__main__":
    run_command(main)
