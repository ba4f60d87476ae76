"""How command lines end: status and one line, never a traceback for people."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from pipeline.core.errors import ConfigError, DataSetError, StageFailed
from pipeline.options.command_line import run_command
from tests.conftest import ROOT


def ending(error: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[int | str | None, str]:
    def main() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code, capsys.readouterr().err


def test_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(None, capsys) == (0, "")
    assert ending(ConfigError("a\n b"), capsys) == (2, "error: a b\n")
    assert ending(StageFailed("stage 'x' (key k): why"), capsys) == (1, "failed: stage 'x' (key k): why\n")
    missing = DataSetError("no clips\nhere", "Get them:\n    from there")
    assert ending(missing, capsys) == (2, "error: no clips here\n")
    assert str(pickle.loads(pickle.dumps(missing))) == "no clips\nhere"
    status, said = ending(KeyboardInterrupt(), capsys)
    assert status == 130
    assert said.startswith("interrupted: what was finished stays finished")


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)


@pytest.mark.parametrize("write", ["print('a line')", "Console().print('a line')"])
def test_a_reader_that_goes_away_is_no_error(write: str) -> None:
    """As `percepts ledger | head` is: rich would leave with 1."""
    program = (
        "from rich.console import Console; from pipeline.options.command_line import run_command;"
        f"run_command(lambda: [{write} for _ in range(100_000)] and 0)"
    )
    read_end, write_end = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=write_end, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(write_end)
    os.close(read_end)
    _, said = process.communicate(timeout=240)
    assert (process.returncode, said) == (0, b"")
