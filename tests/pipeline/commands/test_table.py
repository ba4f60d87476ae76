"""The table of commands: each is a module with a main, an explanation, and the same options for the same thing."""

from __future__ import annotations

import contextlib
import importlib
import tomllib

import pytest

from pipeline.commands.table import COMMANDS, main
from pipeline.core.errors import UsageError
from pipeline.engine.store import DEFAULT_STORE
from tests.conftest import ROOT

STORE_COMMANDS = ("ledger", "verify", "compact", "takedown")


def test_the_console_script_is_the_module_that_python_runs() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["percepts"].partition(":")
    assert module == "pipeline.commands.__main__"
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_refuses_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "cluster":
        pytest.importorskip("cronsim")
    with contextlib.suppress(SystemExit):
        assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"percepts {name}" in said
    with pytest.raises(UsageError) as error:
        main([name, "--no-such-option"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", STORE_COMMANDS)
def test_the_store_has_one_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert f"[{DEFAULT_STORE}]" in capsys.readouterr().out


def test_help_lists_the_commands_and_a_wrong_one_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in (*COMMANDS, "moving-mnist"))
    assert main([]) == 2
    with pytest.raises(UsageError, match="no command 'verfy'; did you mean 'verify'"):
        main(["verfy"])
