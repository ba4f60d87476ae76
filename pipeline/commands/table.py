"""The subcommands of `percepts`: one line here and one file beside this one each.

The file defines `main(arguments) -> int`, which returns the exit status. It is imported when the command is called,
and imports what it uses when it uses it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final

from pipeline.core.error_words import did_you_mean
from pipeline.core.errors import UsageError

COMMANDS: Final = {
    "run": "make what is missing of a recipe, and report",
    "plan": "show what a run would make and why, and what it would take",
    "ledger": "list every video of a store, and what became of its frames",
    "predict": "write what a pretrained model remembers of a video and expects next",
    "classify": "name the actions that a video shows, and when",
    "compare": "compare runs: settings that differ, and results side by side",
    "ui": "open MLflow's pages on the runs of a store",
    "publish": "write a model and a card that describes it for others",
    "track": "list what MLflow did not take of runs, and send it",
    "verify": "recount and rehash a store, and repair it",
    "compact": "merge small shards of percepts into larger files",
    "prune": "remove artifacts that no kept run, alias or newer artifact needs",
    "takedown": "remove a video's percepts, and list what was made of it",
    "submit": "send a run to a cluster as a Ray job, and follow it",
    "status": "show what runs in a store, what ran last, and what comes next",
    "cluster": "write files that start a cluster or a schedule",
}
"""Name -> one line. Command x is `main` of module pipeline.commands.x, with underscores for dashes."""
USAGE: Final = "usage: percepts COMMAND ...    (percepts COMMAND --help explains its options)"


def main(arguments: Sequence[str]) -> int:
    """Runs the command that the first argument names, on the others. Returns the exit status.

    Raises:
        UsageError: there is no such command, or it cannot do what its arguments say.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        from pipeline.recipes.recipe import RECIPES

        lines = [f"  {name:<14} {summary}" for name, summary in COMMANDS.items()]
        recipes = [f"  {name:<14} {summary}" for name, (_, summary) in RECIPES.items()]
        print("\n".join([USAGE, "", "commands:", *lines, "", "recipes of run and plan:", *recipes]))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(f"there is no command {name!r}; {did_you_mean(name, COMMANDS)}the commands are: {known}")
    module = importlib.import_module(f"pipeline.commands.{name.replace('-', '_')}")
    status: int = module.main(rest)
    return status
