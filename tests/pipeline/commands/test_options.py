"""Options: numbers, names and pairs that are refused, files and presets, and what help shows."""

from __future__ import annotations

import re
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.running.recipe_options import parse
from pipeline.core.errors import UsageError
from pipeline.options.config_file import write_config
from pipeline.options.flags import list_options, rules_of
from pipeline.recipes.recipe import RECIPES, load_recipe

NEEDED = {
    "youtube": ["--videos", "clips"],
    "patches": ["--videos", "clips"],
    "classify": ["--classifier", "c", "--videos", "clips"],
    "embed": ["--encoder", "e", "--videos", "clips"],
    "actions": ["--videos", "clips"],
}


def options_of(name: str, *flags: str) -> Any:
    return parse(load_recipe(name), [*NEEDED.get(name, []), *flags])


def refusal(name: str, *flags: str) -> str:
    with pytest.raises(UsageError) as error:
        options_of(name, *flags)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(f"(percepts run {name} --help)")
    return text


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--pretrain.optimizer.learning-rate", "nan", "give a finite number"),
        ("--pretrain.optimizer.learning-rate", "-inf", "give a finite number"),
        ("--pretrain.optimizer.learning-rate", "1e400", "give a finite number"),
        ("--pretrain.optimizer.learning-rate", "1e30", "at most"),
        ("--pretrain.num-steps", "nan", "give a finite number"),
        ("--pretrain.num-steps", "inf", "give a finite number"),
        ("--pretrain.num-units", "100000000000000", "at most 2,147,483,647"),
        ("--pretrain.num-units", "9" * 400, "at most 2,147,483,647"),
        ("--pretrain.num-units", "12.5", "give a whole number"),
        ("--pretrain.num-units", "many", "give a whole number"),
        ("--pretrain.seed", "1e19", "at most"),
        ("--gpus-per-worker", "one", "give a number, or auto"),
        ("--pretrain.loss", "gausian", "did you mean 'gaussian'?"),
        ("--models", "futur", "did you mean 'future'?"),
    ],
)
def test_a_value_of_another_type_or_size_is_refused(flag: str, value: str, words: str, tmp_path: Path) -> None:
    said = refusal("youtube", flag, value)
    assert flag in said
    assert words in said
    table, _, name = flag.removeprefix("--").rpartition(".")
    path = tmp_path / "run.toml"
    quoted = f'["{value}"]' if flag == "--models" else f'"{value}"'
    path.write_text(f"[{table}]\n{name} = {quoted}" if table else f"{name} = {quoted}")
    in_file = refusal("youtube", "--config", str(path))
    assert words in in_file
    assert f"{path}: {flag.removeprefix('--')} is " in in_file


def test_whole_numbers_may_be_written_as_people_do() -> None:
    chosen = options_of("youtube", "--pretrain.num-steps", "1e5", "--pretrain.seed", str(2**40))
    assert chosen.pretrain.training.num_steps == 100_000
    assert isinstance(chosen.pretrain.training.num_steps, int)
    assert chosen.pretrain.training.seed == 2**40
    assert (
        options_of("youtube", "--pretrain.optimizer.learning-rate=1e-4").pretrain.training.optimizer.learning_rate
        == 1e-4
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--pretrain.num-step", "3"], "no option --pretrain.num-step; did you mean --pretrain.num-steps?"),
        (["--num-steps", "3"], "did you mean --pretrain.num-steps?"),
        (["--wokers", "3"], "did you mean --workers?"),
        (["--pretrain.num-steps"], "--pretrain.num-steps needs a value"),
        (["--pretrain.num-steps", "3", "4"], "'4' belongs to no option"),
        (["--models", "future", "--models", "composite"], "--models is given twice"),
        (["--preset", "huge"], "the presets are: laptop, gpu, paper"),
        (["--config", "/no/such.toml"], "there is no such file"),
        (["--pretrain.decoders", "future"], "--models decides it"),
        (["--pretrain.predict-conditional"], "--models decides it"),
        (["--plan-hours", "300"], "no effect without --plan"),
        (["--num-cpus", "4", "--address", "head:6379"], "no effect with --address"),
    ],
)
def test_names_and_pairs_that_are_refused(flags: list[str], words: str) -> None:
    assert words in refusal("youtube", *flags)


def test_a_model_is_named_once() -> None:
    with pytest.raises(UsageError, match="names one twice"):
        load_recipe("moving-mnist").build(options_of("moving-mnist", "--models", "future", "future"))


def test_feedback_is_for_conditional_models() -> None:
    recipe, feedback = load_recipe("moving-mnist"), ["--pretrain.feedback.probability", "0.5"]
    with pytest.raises(UsageError, match="no model of --models has one"):
        recipe.build(options_of("moving-mnist", *feedback))
    plan = recipe.build(options_of("moving-mnist", *feedback, "--models", "future", "conditional future"))
    configs = {node.name: node.config for node in plan.nodes}
    assert not configs["pretrain future"].training.feedback
    assert configs["pretrain conditional future"].training.feedback.probability == 0.5


@pytest.mark.parametrize(
    ("recipe", "flags", "words"),
    [
        ("demo", ["--encoder", "x", "--pretrain.num-steps", "3"], "no effect with --encoder"),
        ("demo", ["--tables", "--pretrain.decoders", "future"], "no effect with --tables"),
        ("demo", ["--tables", "--scratch.labels-per-class", "1"], "no effect with --tables"),
        ("demo", ["--scratch.model", "frame"], "its row is that of the lstm model"),
        ("moving-mnist", ["--pretrain.window-stride", "2"], "learns from pixels"),
        ("moving-mnist", ["--pretrain.transform.kind", "raw"], "learns from pixels"),
        ("patches", ["--cut.limits.max-frames", "4"], "--limits decides it"),
        ("youtube", ["--extract.limits.max-frames", "4"], "--limits decides it"),
        ("ucf101", ["--models", "future"], "no effect without --unlabelled"),
        ("ucf101", ["--pretrain.num-units", "4"], "no effect without --unlabelled"),
        ("ucf101", ["--finetuned.num-units", "4"], "the pretrained model decides it"),
        ("hmdb51", ["--scratch.splits", "1"], "--splits decides it"),
        ("hmdb51", ["--scratch.num-units", "4", "--unlabelled", "b"], "no effect with --unlabelled"),
        ("demo", ["--num-cpus", "4", "--in-process"], "no effect with --in-process"),
        ("hmdb51", ["--pretrained", "a", "--unlabelled", "b"], "no effect with --pretrained"),
    ],
)
def test_an_option_that_another_one_decides_is_refused(recipe: str, flags: list[str], words: str) -> None:
    assert words in refusal(recipe, *flags)


@pytest.mark.parametrize("name", RECIPES)
def test_a_written_config_gives_the_same_run(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    for preset in [None, *recipe.presets]:
        chosen = options_of(name, *(["--preset", preset] if preset else []))
        path = str(tmp_path / f"{preset}.toml")
        options = [option for option in list_options(type(chosen)) if not rules_of(option.name, recipe.refused)]
        write_config(path, chosen, options, "percepts run")
        assert parse(recipe, ["--config", path]) == chosen
        # A preset of the command line is below the file, and must not change what the file fixes.
        if preset:
            assert parse(recipe, ["--config", path, "--preset", preset]) == chosen
        listed = Path(path).read_text()
        for option in options:
            assert re.search(rf"^(# )?{re.escape(option.name.rpartition('.')[2])} =", listed, re.M), option.name


def test_write_config_writes_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weekly.toml"
    flags = ["--videos", "a b", 'c"d', "--preset", "laptop", "--pretrain.num-steps", "7", "--pretrain.residual"]
    with pytest.raises(SystemExit) as end:
        parse(load_recipe("youtube"), [*flags, "--write-config", str(path)])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert parse(load_recipe("youtube"), ["--config", str(path)]) == parse(load_recipe("youtube"), flags)
    listed = path.read_text()
    assert "# tracking-uri =  # default: SQLite in the store\n" in listed
    assert "# video-stream =  # None takes the one that ffmpeg takes\n" in listed
    assert "# register =\n" in listed, "without a value nothing is done"


def test_a_written_config_with_a_secret_is_its_owners_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text("readable by all")
    path.chmod(0o644)
    flags = ["--videos", "https://me:pw-of-mine@host/a.mp4"]
    with pytest.raises(SystemExit):
        parse(load_recipe("youtube"), [*flags, "--write-config", str(path)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "only you may read it" in capsys.readouterr().err
    assert parse(load_recipe("youtube"), ["--config", str(path)]) == parse(load_recipe("youtube"), flags)
    with pytest.raises(UsageError, match="name a file of this machine"):
        parse(load_recipe("youtube"), [*flags, "--write-config", "memory://bucket/run.toml"])


def test_defaults_give_way_to_a_preset_it_to_a_file_and_the_file_to_flags(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "laptop"\nvideos = ["x"]\n[pretrain]\nnum_layers = 3\nbatch-size = 5\n')
    chosen = parse(load_recipe("youtube"), ["--config", str(path), "--pretrain.batch-size", "6"])
    assert chosen.videos == ("x",)
    model, training = chosen.pretrain.model, chosen.pretrain.training
    assert (model.num_units, model.num_layers, training.batch_size, training.num_passes) == (256, 3, 6, 8)


def test_steps_take_the_place_of_passes_and_passes_that_of_steps(tmp_path: Path) -> None:
    def length(*flags: str) -> tuple[int | None, float | None]:
        training = options_of("youtube", *flags).pretrain.training
        return training.num_steps, training.num_passes

    path = tmp_path / "run.toml"
    path.write_text("[pretrain]\nnum-steps = 7\n")
    assert length() == (None, 8)
    assert length("--pretrain.num-steps", "5") == (5, None)
    assert length("--config", str(path)) == (7, None)
    assert length("--config", str(path), "--pretrain.num-passes", "0.5") == (None, 0.5)
    assert "both were given" in refusal("youtube", "--pretrain.num-steps", "5", "--pretrain.num-passes", "2")
    assert "neither was given" in refusal("youtube", "--pretrain.num-passes", "none")
    assert "never repeat" in refusal("moving-mnist", "--pretrain.num-passes", "2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[pretrain]\nnum_step = 3", "there is no option pretrain.num_step; did you mean pretrain.num-steps?"),
        ('[pretrain]\ndecoders = "future"', "--models decides it"),
        ("pretrain = 3", "there is no option pretrain"),
        ("[pretrain]\nnum-steps = true", "pretrain.num-steps is 'true'; give a whole number"),
        ("[pretrain]\nnum-steps = [1, 2]", "pretrain.num-steps takes one value, and 2 were given"),
        ("[pretrain]\nresidual = 3", "pretrain.residual is '3'; give true or false"),
        ("[pretrain]\nnum-steps = nan", "give a finite number"),
        ("models = [['future']]", "a list of values"),
        ("[pretrain", "cannot be read as TOML"),
    ],
)
def test_a_config_file_is_read_by_the_same_rules(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert words in refusal("youtube", "--config", str(path))


def help_of(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as end:
        parse(load_recipe(name), [flag])
    assert end.value.code == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", RECIPES)
def test_help_is_a_screen_and_help_all_has_every_option(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    recipe = load_recipe(name)
    lines = help_of(name, "--help", capsys)
    assert len(lines) <= 60
    assert "--help-all" in "\n".join(lines)
    assert sum(line.startswith("  percepts ") for line in lines) == 2
    everything = help_of(name, "--help-all", capsys)
    heads = {line.split()[0] for line in everything if line.startswith("  --")}
    for option in list_options(recipe.options):
        is_there = bool(heads & {f"--{option.name}", f"--no-{option.name}", f"--{option.name}".replace(".", ".no-")})
        assert is_there == (not rules_of(option.name, recipe.refused)), option.name
    # Text is filled to the width: no line but the last of a paragraph has room for the next word.
    for line, following in pairwise(everything):
        assert len(line) <= columns or line.startswith("  percepts")
        if line.startswith("  ") and following.startswith(" " * 28):
            assert len(line) + 1 + len(following.split()[0]) > columns, line
