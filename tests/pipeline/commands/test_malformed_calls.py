"""Malformed calls of every command, made from its options: status 2, one line, no traceback, and nothing is begun."""

from __future__ import annotations

import importlib
import math
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import table
from pipeline.commands.running.recipe_options import OF_FILES
from pipeline.commands.running.recipe_run import RecipeRun
from pipeline.core.errors import ConfigError
from pipeline.engine.store import Store
from pipeline.options.command_line import run_command
from pipeline.options.flags import Option, list_options, rules_of
from pipeline.options.values import is_many, number_or_words, optional
from pipeline.recipes.recipe import RECIPES, load_recipe

LONG = "x" * 300
DIGITS = "9" * 300
MAY_BE_ZERO = {
    # Shares, probabilities, weights and rates.
    "contrast", "crf", "dropout", "dropouts", "input-dropout", "input-dropouts", "final-fraction", "momentum", "beta2",
    "max-grad-norm", "weight-decay", "weight-decays", "output-weight-decay", "forget-bias", "offset-std", "scale-std",
    "noise-std", "velocity-clamp", "end",
    "begin", "probability", "average-decay", "min-improvement", "held-out", "validation-fraction", "grace-minutes",
    "price-per-gpu-hour", "price-per-core-hour", "price-per-tb-month", "gpus-per-worker",
    # Counts and numbers that begin at 0.
    "seed", "look-again", "video-stream", "patience", "num-epochs", "num-hidden-units", "num-warmup-steps",
    "labels-per-class", "port", "few-videos",
}  # fmt: skip
"""The last names of the options that may be 0."""


@dataclass(frozen=True)
class Surface:
    """A command, or a recipe of one, with its options and the words that it needs."""

    words: tuple[str, ...]
    options: tuple[Option, ...]

    def call(self, option: Option, *values: str) -> list[str]:
        """Returns a call that gives `values` to one option, and to the others what they need."""
        positional: list[str] = []
        for other in (other for other in self.options if other.positional):
            positional += values if other is option else ("x", "x")[: 1 + is_many(other.kind)]
        needed = [other for other in self.options if other.default is MISSING and other is not option]
        flags = [word for other in needed if not other.positional for word in (f"--{other.name}", "x")]
        # The prices of a plan have no effect without it.
        flags += ["--plan"] if self.words[0] == "run" and option.name != "plan" else []
        given = [] if option.positional else [f"--{option.name}", *values]
        return [*self.words, *positional, *given, *flags]


def surfaces() -> Iterator[Surface]:
    for name in table.COMMANDS:
        if name in ("run", "plan"):
            for recipe in RECIPES:
                listed = list_options(load_recipe(recipe).options)
                refused = load_recipe(recipe).refused
                options = [option for option in listed if not rules_of(option.name, refused)]
                yield Surface((name, recipe), (*options, *OF_FILES))
        else:
            module = importlib.import_module(f"pipeline.commands.{name.replace('-', '_')}")
            kinds = [kind for kind in vars(module).values() if is_dataclass(kind) and kind.__name__.endswith("Options")]
            own = [kind for kind in kinds if kind.__module__ == module.__name__]
            assert own, f"command {name} has no dataclass of options"
            for kind in own:
                words = {"cluster": ("cluster", "render"), "submit": ("submit", "demo", "--store", "/s")}
                yield Surface(words.get(name, (name,)), tuple(list_options(kind)))


def value_kind(option: Option) -> Any:
    kind = optional(option.kind)
    return number_or_words(typing.get_args(kind)[0] if is_many(kind) else kind)[0]


def malformed(option: Option) -> list[str]:
    """Returns values that no option of this type may take."""
    kind, last = value_kind(option), option.name.rpartition(".")[2]
    if kind is str:
        return ["", " ", "a\0b"]
    if kind not in (int, float):
        return ["", "\0", "unknown", LONG]
    values = ["", "x", "\0", "nan", "inf", "-inf", "1e300", "-1e300", DIGITS, LONG]
    values += ["1.5"] if kind is int else []
    values += [] if last.endswith("bias") else ["-1"]
    return values if last in MAY_BE_ZERO else [*values, "0"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(RecipeRun, "make", lambda run: pytest.fail(f"carried out: {run.command}"))


def answer(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Returns the status and what stands in stderr: at most three lines, and no traceback or box."""
    with pytest.raises(SystemExit) as end:
        run_command(lambda: table.main(words))
    said = capsys.readouterr().err
    shown = " ".join(words)[:200]
    assert len(said.splitlines()) <= 3, (shown, said)
    assert max(map(len, said.splitlines()), default=0) < 1000, (shown, said)
    assert not set("╭│└") & set(said), (shown, said)
    assert "Traceback" not in said, (shown, said)
    return int(end.value.code or 0), said


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    status, said = answer(words, capsys)
    assert status == 2, (" ".join(words)[:200], said)
    assert said.startswith("error: "), (" ".join(words)[:200], said)
    return said


def test_every_option_refuses_what_it_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: set[tuple[Any, str]] = set()
    num_calls = 0
    for surface in surfaces():
        for option in surface.options:
            if value_kind(option) is bool:
                calls = [[*surface.words, f"--{option.name}={value}"] for value in ("", "x", "nan", "2")]
            else:
                calls = [surface.call(option, value) for value in malformed(option)]
            # A recipe's options are often those of another one: there one value each will do.
            field = (option.owner, option.path.rpartition(".")[2])
            for words in calls if field not in seen else calls[:1]:
                said = refusal(words, capsys)
                names = (option.shown, field[1], f"--{option.name.partition('.')[0]}")
                assert any(name in said for name in names), (" ".join(words)[:200], said)
                num_calls += 1
            seen.add(field)
    assert num_calls > 2000
    assert list(tmp_path.iterdir()) == []


def test_every_command_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: set[tuple[Any, str]] = set()
    for surface in surfaces():
        first = next(option for option in surface.options if not option.positional and value_kind(option) is not bool)
        for words in ([f"--{LONG}"], ["--no-such", "3"], ["--no\0such=3"], ["-x"]):
            refusal([*surface.call(first, "1"), *words], capsys)
        assert "needs a value" in refusal([*surface.words, f"--{first.name}"], capsys)
        for option in surface.options:
            field = (option.owner, option.path.rpartition(".")[2])
            if option.positional or value_kind(option) is bool or is_many(option.kind) or field in seen:
                continue
            seen.add(field)
            value = "1" if value_kind(option) in (int, float, str) else str(typing.get_args(value_kind(option))[0])
            assert "given twice" in refusal(surface.call(option, value, f"--{option.name}={value}"), capsys)
        if missing := [option for option in surface.options if option.default is MISSING]:
            assert missing[0].shown in refusal(list(surface.words), capsys)
    assert "did you mean 'verify'" in refusal(["verfy"], capsys)
    assert "did you mean 'youtube'" in refusal(["run", "youtub"], capsys)
    refusal(["run", LONG], capsys)
    refusal([LONG], capsys)
    refusal(["cluster", LONG], capsys)
    assert list(tmp_path.iterdir()) == []


CONFIGS = {
    "empty.toml": b"",
    "binary.toml": bytes(range(256)),
    "other.toml": "preset = \u00e9".encode("latin-1"),
    "text.toml": b"hello",
    "json.toml": b'{"workers": 3}',
    "list.toml": b"[[pretrain]]\nnum-steps = 3",
    "deep.toml": b"[store.x.y]\nz = 1",
    "type.toml": b"workers = [[1]]",
    "date.toml": b"num-cpus = 2026-01-01",
    "inf.toml": b"num-cpus = inf",
    "infinite.toml": b"gpus-per-worker = -inf",
    "none.toml": b'store = ""',
    "unknown.toml": b"wokers = 3",
    "twice.toml": b"workers = '1'\nworkers = '2'",
    "nul.toml": b'store = "a\\u0000b"',
    "long.toml": b"preset = '" + b"x" * 100_000 + b"'",
    "nested.toml": b"a = " + b"[" * 3000 + b"]" * 3000,
}


def test_config_files_of_every_wrong_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in CONFIGS.items():
        (tmp_path / name).write_bytes(content)
        words = ["run", "moving-mnist", "--config", name, "--plan"]
        if name == "empty.toml":
            assert answer(words, capsys)[0] == 0
        else:
            assert name.partition(".")[0] in refusal(words, capsys) or name == "long.toml"
    for path in (str(tmp_path), "/dev/zero", "/dev/null", "/no/such", LONG, "a\0b", "s3://", "nonsense://x"):
        refusal(["run", "demo", "--config", path, "--plan"], capsys)
        if not path.startswith("/dev"):
            refusal(["cluster", "render", "slurm", "--settings", path], capsys)
    refusal(["cluster", "render", "slurm", "--settings", "nested.toml"], capsys)
    refusal(["run", "demo", "--write-config", str(tmp_path)], capsys)
    refusal(["run", "demo", "--write-config", LONG], capsys)


def test_text_that_names_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths and names of every option that takes text: an answer in lines, whatever they are."""
    (tmp_path / "file").write_bytes(b"\x89text")
    (tmp_path / "folder").mkdir()
    store = str(Store.open(str(tmp_path / "store"), create=True).root)
    texts = (LONG, "/no/such/place", "file", "folder")
    given = {"videos": "folder", "lists": "folder", "store": store, "dashboard": "http://127.0.0.1:9"}
    seen: set[tuple[Any, str]] = set()
    for surface in surfaces():
        if surface.words[0] in ("run", "submit", "ui"):  # a right one would be carried out; plan takes the same options
            continue
        for option in surface.options:
            field = (option.owner, option.path.rpartition(".")[2])
            if value_kind(option) is not str or field in seen or option.name.startswith("write-config"):
                continue
            seen.add(field)
            for text in texts if surface.words[0] != "plan" else texts[::3]:
                words = surface.call(option, text)
                for name, value in given.items():
                    has_it = any(other.name == name and not other.positional for other in surface.options)
                    if has_it and f"--{name}" not in words:
                        words += [f"--{name}", value]
                status, said = answer(words, capsys)
                assert status in (0, 2), (words, said)
                assert (status == 2) == said.startswith("error: "), (words, said)
                if option.name == "store" and text != "folder" and surface.words[0] != "plan":
                    assert status == 2


def test_a_number_is_not_larger_than_what_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (
        ["--workers", "1000000"],
        ["--workers", "9" * 5000],
        ["--train-threads", "1000000"],
        ["--num-cpus", "-3"],
        ["--num-cpus", "1000000"],
        ["--gpus-per-worker", "1e6"],
        ["--decoders-per-gpu", "1000000"],
        ["--plan-hours", "1e300"],
        ["--cache-gigabytes", "1e300"],
        ["--extract.decode.short-side-px", "100000"],
    ):
        assert flags[0].strip("-").split(".")[-1] in refusal(["plan", "demo", *flags], capsys).replace("_", "-")
    refusal(["verify", "--threads", "1000000"], capsys)


@pytest.mark.parametrize(
    "flags",
    [
        ["--register", "bad name/@"],
        ["--register", "bad/name"],
        ["--register", "a:b"],
        ["--register", ".."],
        ["--register", LONG],
        ["--register", "name@latest"],
        ["--register", f"name@{LONG}"],
        ["--experiment", LONG],
        ["--experiment", "a\nb"],
        ["--run-name", LONG],
        ["--run-name", "a\x1b[31m"],
        ["--tag", "novalue"],
        ["--tag", "=value"],
        ["--tag", "a,b?=c"],
        ["--tag", f"{LONG}=x"],
        ["--tag", "../up=x"],
        ["--address", "nonsense"],
        ["--address", "head:99999"],
        ["--address", "head:-1"],
    ],
)
def test_names_and_addresses_that_mlflow_and_ray_would_refuse(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert flags[0].strip("-").replace("-", "_") in refusal(["run", "demo", *flags], capsys).replace("-", "_")


def test_configs_refuse_numbers_that_are_none() -> None:
    """The configs themselves: a number that is not finite never reaches a key, however it was given."""
    num_tried = 0
    for name in RECIPES:
        for option in list_options(load_recipe(name).options):
            if option.owner is None or value_kind(option) is not float or option.default is MISSING:
                continue
            try:
                config = option.owner()
            except TypeError:
                continue
            for value in (math.nan, math.inf, -math.inf):
                field = option.path.rpartition(".")[2]
                with pytest.raises(ConfigError):
                    replace(config, **{field: (value, 1.0) if is_many(option.kind) else value})
                num_tried += 1
    assert num_tried > 300


def test_a_cache_that_no_node_can_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known before a store is begun: a stage would have failed at the first percepts that it read."""
    (tmp_path / "file").write_text("no folder")
    run = ["run", "moving-mnist", "--store", "memory://never/begun", "--tracking-uri", f"sqlite:///{tmp_path}/runs.db"]
    assert "'/'" in refusal([*run, "--cache", "/"], capsys)
    assert "another --cache" in refusal([*run, "--cache", str(tmp_path / "file")], capsys)
    for name, value in (("PERCEPTS_CACHE", "/proc/x"), ("PERCEPTS_CACHE_GIGABYTES", "inf")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert value in refusal(run, capsys)
