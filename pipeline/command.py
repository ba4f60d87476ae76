"""What every command line of percepts has in common: how it ends.

Exit status 0: done. 1: the work failed, and the message says where. 2: what was asked cannot be done, in one line.
130: interrupted with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from pipeline.errors import DataSetError, PerceptsError, UsageError


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
