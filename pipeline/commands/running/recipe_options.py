"""Options of a run of a recipe (defaults < --preset < --config < flags), and its plan."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING
from typing import Any, Final

from pipeline.core.addresses.model_uris import TRACKING_VARIABLE
from pipeline.core.errors import ConfigError, UsageError
from pipeline.engine.plan import Plan
from pipeline.options.command_line import print_help, with_hint
from pipeline.options.config_file import read_config, write_config
from pipeline.options.flags import Option, assemble, list_options, merge, read_arguments, read_table, rules_of
from pipeline.options.help import full_help, short_help
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.run_options import NEEDS_PLAN, NOT_WITH, RUN_GROUP, RunOptions

CONFIG: Final = Option(path="config", name="config", kind=str | None, default=None)
PRESET: Final = Option(path="preset", name="preset", kind=str | None, default=None)
WRITE_CONFIG: Final = Option(path="write_config", name="write-config", kind=str | None, default=None)
OF_FILES: Final = (CONFIG, PRESET, WRITE_CONFIG)


def parse(recipe: Recipe, arguments: Sequence[str], program: str | None = None) -> RunOptions:
    """Returns the options of a run from its arguments.

    Raises:
        UsageError: an option is unknown, or its value breaks a rule.
        SystemExit: `--help` and `--help-all` print help, and `--write-config` writes a file; status 0.
    """
    program = program or f"percepts run {recipe.name}"
    options = [option for option in list_options(recipe.options) if not rules_of(option.name, recipe.refused)]
    if "--help-all" in arguments:
        print_help(full_help(program, recipe.summary, options, recipe.examples))
    if "--help" in arguments or "-h" in arguments:
        of_run = [name for name in RUN_GROUP if not rules_of(name, recipe.refused)]
        shown = {**recipe.shown, "the run": of_run}
        print_help(short_help(program, recipe.summary, options, shown, recipe.examples, _others(recipe)))
    try:
        values = read_arguments(arguments, [*options, *OF_FILES], recipe.refused)
        config, preset, target = (values.pop(option.path, None) for option in OF_FILES)
        lower: dict[str, Any] = {}
        if config is not None:
            table = read_config(config)
            preset = preset or table.pop(PRESET.name, None)
            lower = read_table(table, options, config, recipe.refused)
        merged = merge([_preset(recipe, preset, options), lower, values], options)
        _check_pairs(recipe, options, values, merged)
        chosen: RunOptions = assemble(recipe.options, merged, options)
    except UsageError as error:
        raise with_hint(error, program) from error
    if target is not None:
        if write_config(target, chosen, options, f"{program} --config {target}"):
            sys.stderr.write(f"{target} holds a password or a signature: only you may read it, keep it so\n")
        print_help(target)
    return chosen


def build_plan(recipe: Recipe, options: RunOptions) -> Plan:
    """Builds the plan of a run; models that are named models:/... are those of its MLflow.

    Raises:
        UsageError: options do not fit together, or what they name is not there.
    """
    with _mlflow_of(options):
        return recipe.build(options)


@contextmanager
def _mlflow_of(options: RunOptions) -> Iterator[None]:
    """Sets the run's MLflow in the environment while a plan is built, whose key may be that of a model in it."""
    before, uri = os.environ.get(TRACKING_VARIABLE), options.mlflow_of_models
    if uri is not None:
        os.environ[TRACKING_VARIABLE] = uri
    try:
        yield
    finally:
        os.environ.pop(TRACKING_VARIABLE, None)
        if before is not None:
            os.environ[TRACKING_VARIABLE] = before


def _preset(recipe: Recipe, name: str | None, options: Sequence[Option]) -> dict[str, Any]:
    if name is None:
        return {}
    if name not in recipe.presets:
        known = f"the presets are: {', '.join(recipe.presets)}" if recipe.presets else "this recipe has none"
        raise ConfigError(f"there is no preset {name!r}; {known}")
    return read_table(recipe.presets[name], options, f"preset {name}", recipe.refused)


def _check_pairs(
    recipe: Recipe,
    options: Sequence[Option],
    flags: Mapping[str, Any],
    merged: Mapping[str, Any],
) -> None:
    """Raises ConfigError for a flag without effect. A file or a preset may hold options that others switch off."""
    by_name = {option.name: option for option in options}

    def is_on(name: str) -> bool:
        option = by_name[name]
        return merged.get(option.path, option.default) not in (option.default, MISSING)

    for option in options:
        if option.path not in flags:
            continue
        for needed in rules_of(option.name, {**NEEDS_PLAN, **recipe.only_with}):
            if not is_on(needed):
                raise ConfigError(f"--{option.name} has no effect without --{needed}; give both, or leave it out")
        for others in rules_of(option.name, {**NOT_WITH, **recipe.not_with}):
            for other in filter(is_on, others):
                raise ConfigError(f"--{option.name} has no effect with --{other}; leave one of them out")


def _others(recipe: Recipe) -> dict[str, str]:
    presets = {f"--preset {{{','.join(recipe.presets)}}}": "Sizes of a kind of machine; flags change them."}
    return {
        **(presets if recipe.presets else {}),
        "--config FILE": "Options from a TOML file; flags change them.",
        "--write-config FILE": "Write the options that this run would use, and start nothing.",
        "--help-all": "Explain all options.",
    }
