"""Settings of a cluster: defaults, differences in a file, and what is refused in one line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cluster.rendering.settings import DEFAULTS, read_settings
from pipeline.core.errors import ConfigError, SourceError


def written(directory: Path, text: str) -> str:
    path = directory / "cluster.toml"
    path.write_text(text)
    return str(path)


def test_the_defaults_hold_every_setting() -> None:
    settings = read_settings()
    tables = tomllib.loads(DEFAULTS.read_text())
    for name in ("image", "run", "schedule", "ray", "aws", "kubernetes", "slurm", "machine"):
        assert set(tables[name]) == set(getattr(settings, name).__dataclass_fields__), name


def test_a_file_holds_differences_and_its_workers_replace_all_kinds(tmp_path: Path) -> None:
    text = (
        '[run]\nrecipe = "demo"\n[workers.big]\ninstance_type = "m7i"\ncpus = 64\nmemory_gib = 256\nmax_workers = 2\n'
    )
    settings = read_settings(written(tmp_path, text), [("schedule", "time_zone", "Europe/Berlin")])
    assert settings.run.recipe == "demo"
    assert settings.run.store == read_settings().run.store
    assert list(settings.workers) == ["big"]
    assert settings.schedule.time_zone == "Europe/Berlin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[aws]\nregoin = 'eu-west-1'", r"'aws.regoin'; did you mean 'region'"),
        ("[awss]\nregion = 'eu-west-1'", r"'awss'; did you mean 'aws'"),
        ("[workers.gpu]\ncpu = 1", r"'workers.gpu.cpu'; did you mean 'cpus'"),
        ("[workers.gpu]\ncpus = 1", r"missing in \[workers.gpu\]: instance_type, memory_gib"),
        ("[head]\ncpus = '8'", r"head.cpus is '8'; it must be a whole number"),
        ("[head]\ncpus = true", r"head.cpus is True; it must be a whole number"),
        ("[head]\ncpus = 0", r"\[head\] cpus is 0; it must be at least 1"),
        ("[head]\nspot = true", r"head.spot is true; losing the head ends every run"),
        ("head = 1", r"head is 1; it must be a table"),
        ("[aws]\nzones = 'us-west-2a'", r"aws.zones is 'us-west-2a'; it must be a list"),
        ("[aws]\nzones = ['eu-west-1a']", r"\[aws\] zones holds 'eu-west-1a', which is not in the region 'us-west-2'"),
        ("[aws]\nmachine_image = ''", r"machine_image is ''; it must be ami-"),
        ("[schedule]\ncron = '0 1 * *'", r"\[schedule\] schedule '0 1 \* \*' is no cron expression"),
        ("[run]\noptions = ['--store', 'x']", r"options holds --store, which has a setting of its own"),
        ('[run]\noptions = ["a\\nb"]', r"line break"),
        ("[machine]\nuser = 'a b'", r"user is 'a b'; it must be letters"),
        ("[kubernetes]\nnamespace = 'Percepts'", r"namespace is 'Percepts'; it must be lower-case"),
        ("[slurm]\ntime_limit = 'a day'", r"time_limit is 'a day'; it must be \[DAYS-\]"),
        ("name = ", r"is not TOML"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none.toml.*cannot be read"):
        read_settings(str(tmp_path / "none.toml"))
