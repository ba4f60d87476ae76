"""What every command line of percepts has in common: how it ends.

Exit status 0: done. 1: the work failed, and the message says where. 2: what was asked cannot be done, in one line.
130: interrupted with Ctrl-C.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import tyro

from pipeline.core.errors import DataSetError, PerceptsError, UsageError

Options = TypeVar("Options")


def parse_options(
    kind: type[Options], arguments: Sequence[str] | None, *, prog: str, description: str | None = None
) -> Options:
    """A dataclass of options from its flags (None: those of this process).

    Raises:
        UsageError: a flag is unknown or its value breaks a rule; `--help` prints and leaves with SystemExit 0.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=prog, description=description)
    except SystemExit as end:
        if not end.code:
            raise
        frame_or_colour = r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+"
        words = " ".join(re.sub(frame_or_colour, " ", said.getvalue()).split())
        words = re.sub(r"(Value error )?Error parsing \S+: |For full helptext.*", "", words)
        raise UsageError(f"{words.strip()} ({_how_to_call(prog)} --help)") from None


def _how_to_call(prog: str) -> str:
    return prog if prog.startswith("python") else f"python pipeline/{prog}"


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and leave the process with its status; people get a sentence and never a traceback.

    A bug (any exception that is not a PerceptsError) keeps its traceback: it is ours to read.
    """
    try:
        status = main() or 0
    except UsageError as error:
        _say(f"error: {_one_line(error)}")
        if isinstance(error, DataSetError) and error.instructions:
            _say(f"\n{error.instructions}")
        status = 2
    except PerceptsError as error:
        _say(f"failed: {error}")
        status = 1
    except BrokenPipeError:
        # The reader went away (`... | head`): point stdout elsewhere so that the interpreter's last flush is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except KeyboardInterrupt:
        _say("interrupted: what was finished stays finished; run the same command again to go on")
        status = 130
    sys.exit(status)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
