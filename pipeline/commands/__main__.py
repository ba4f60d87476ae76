"""The console script `percepts`; `python -m pipeline.commands` is the same."""

from __future__ import annotations

import sys

from pipeline.commands.table import main
from pipeline.options.command_line import run_command


def entry() -> None:
    """Runs `percepts` with the arguments of this process, and leaves with its exit status."""
    run_command(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
