"""Names of strangers' files wherever commands print them: nothing acts on the terminal, and the name can be read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from pipeline.commands import ledger, takedown
from pipeline.core.errors import StageFailed, UsageError
from pipeline.core.printable import is_printable, printable
from pipeline.engine.plan import Plan
from pipeline.engine.status import look_up, plan_notes, plan_table
from pipeline.engine.store import Store
from pipeline.engine.tracking.values import flat
from pipeline.options.command_line import run_command
from pipeline.recipes.recipe import Recipe, load_recipe
from pipeline.recipes.run_names import run_name
from pipeline.upkeep.takedown import TakedownReport
from stages.video.ledger import VideoRecord
from tests.pipeline.commands.test_ledger import commit
from tests.pipeline.engine.toy_stages import CountConfig, count

NAMES = (
    "\x1b[31m\x1b[2J.mp4",
    "line\nbreak.mp4",
    "rtl\u202emoc.mp4",
    "\x9b1m.mp4",
    ":smile:[red]x[/].mp4",
    "日本\u3000.mp4",
)
Say = Callable[[str, Store], str | None]


def say_ledger(name: str, store: Store, *arguments: str) -> None:
    record = VideoRecord(
        uri=f"s3://bucket/{name}", sha256="b" * 64, size_bytes=2, verdict="rejected", reason=f"{name} is no video"
    )
    commit(store, "ingest", "i1", "index.parquet", [record], "2026-01-01")
    assert ledger.main(["--store", store.root, *arguments]) == 0


def say_why(name: str, store: Store) -> None:
    say_ledger(name, store, "--why")


def say_takedown(name: str, store: Store) -> None:
    report = TakedownReport(
        video="b" * 64, uris=(name,), is_plan=True, shards=(), num_rows=0, bytes_rewritten=0, lineage=(), unfinished=(),
        is_tracked=True,
    )  # fmt: skip
    takedown._print(report, takedown.TakedownOptions(video="b" * 64, plan=True))


def say_usage_error(name: str, store: Store) -> None:
    def fail() -> None:
        raise UsageError(f"nothing can be made of {name}; give a video")

    with pytest.raises(SystemExit):
        run_command(fail)


def say_failure(name: str, store: Store) -> None:
    def fail() -> None:
        raise StageFailed(printable(f"stage 'extract': a worker died on {name}"))

    with pytest.raises(SystemExit):
        run_command(fail)


def say_plan(name: str, store: Store) -> None:
    plan = Plan("toy")
    plan.add(count, CountConfig())
    steps = [
        step.__class__(node=step.node, manifest=None, reason=f"config changed: {name}", estimate=step.estimate)
        for step in look_up(plan, store)
    ]
    console = Console(file=sys.stdout, width=300)
    console.print(plan_table(plan.recipe, steps))
    for note in plan_notes(steps):
        console.print(note, markup=False)


def say_params(name: str, store: Store) -> str:
    return " ".join(f"{k}={v}" for k, v in flat({"videos": (name, "b"), "sizes": {name: 1}}).items())


def say_run_name(name: str, store: Store) -> str:
    recipe: Recipe = load_recipe("youtube")
    return run_name(recipe, recipe.options(videos=(name,)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "say",
    [say_ledger, say_why, say_takedown, say_usage_error, say_failure, say_plan, say_params, say_run_name],
)
def test_a_name_is_printed_without_what_controls_a_terminal(
    say: Say, name: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = sys.excepthook  # which `run_command` replaces
    try:
        returned = say(name, Store.open(str(tmp_path_factory.mktemp("s")), create=True)) or ""
    finally:
        sys.excepthook = hook
    captured = capsys.readouterr()
    said = returned + captured.out + captured.err
    assert all(is_printable(character) for line in said.split("\n") for character in line)
    one_line = " ".join(name.split()) if say is say_usage_error else name
    assert printable(one_line) in said


@pytest.mark.parametrize("name", NAMES)
def test_json_has_the_name_itself(
    name: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    say_ledger(name, Store.open(str(tmp_path_factory.mktemp("s")), create=True), "--json")
    (line,) = capsys.readouterr().out.splitlines()
    assert all(map(is_printable, line))
    assert json.loads(line)["uri"] == f"s3://bucket/{name}"
