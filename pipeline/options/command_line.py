"""The rules that every command line of percepts keeps: how options are read, and how it ends.

Exit status 0: done. 1: the work failed, and the message says where. 2: the request cannot be met, in one line.
130: interrupted with Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeVar

from pipeline.core.errors import DataSetError, PerceptsError, UsageError
from pipeline.core.printable import printable_lines
from pipeline.core.secrets import hide_in_title, masked
from pipeline.options.flags import assemble, list_options, read_arguments
from pipeline.options.help import full_help

Options = TypeVar("Options")

MAX_WORD: Final = 256
"""The longest word of a message about a wrong command: as long as the longest name of a file."""
HELP = ("-h", "--help", "--help-all")


def parse_options(kind: type[Options], arguments: Sequence[str] | None, *, prog: str) -> Options:
    """Returns a dataclass of options from flags (None: those of this process).

    Raises:
        UsageError: a flag is unknown or its value breaks a rule; `--help` prints and leaves with SystemExit 0.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = list_options(kind)
    if any(word in HELP for word in words):
        print_help(full_help(prog, (kind.__doc__ or "").split("\n\n")[0], options))
    try:
        return assemble(kind, read_arguments(words, options), options)
    except UsageError as error:
        raise with_hint(error, prog) from error


def with_hint(error: UsageError, prog: str) -> UsageError:
    """Returns the same error with the command that explains the options."""
    return type(error)(f"{error} ({prog} --help)", *error.args[1:])


def print_help(text: str) -> NoReturn:
    """Prints help and leaves with SystemExit 0."""
    print(text)
    sys.exit(0)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and leaves the process with its status; a PerceptsError is a message and never a traceback.

    A bug (any exception that is not a PerceptsError) keeps its traceback. Nothing shows passwords or signatures of
    addresses, and neither does this process's title.
    """
    hide_in_title()
    sys.excepthook = lambda *bug: _say("".join(traceback.format_exception(*bug)).rstrip())
    try:
        status = main() or 0
    except UsageError as error:
        _say(f"error: {_one_line(error)}")
        if isinstance(error, DataSetError) and error.instructions:
            print(error.instructions, flush=True)  # not an error but help, as of --help
        status = 2
    except PerceptsError as error:
        _say(f"failed: {error}")
        status = 1
    except BrokenPipeError:
        # The reader went away (`... | head`): point stdout elsewhere so that the interpreter's last flush is silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        status = 0  # rich leaves with 1 where the reader went away, and has pointed stdout elsewhere
    except KeyboardInterrupt:
        _say("interrupted: what was finished stays finished; run the same command again to go on")
        status = 130
    sys.exit(status)


def _one_line(error: BaseException) -> str:
    """Returns a message on one line; words of it that fill lines by themselves, such as a wrong value, are cut."""
    words = masked(str(error)).split()  # before a cut could hide where a password ends
    return " ".join(word if len(word) <= MAX_WORD else f"{word[: MAX_WORD // 4]}…" for word in words)


def _say(message: str) -> None:
    print(printable_lines(masked(message)), file=sys.stderr, flush=True)
