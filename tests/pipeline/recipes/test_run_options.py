"""How many workers a stage has, and how many cores and GPUs each: those that are given, or those that are there."""

from __future__ import annotations

from typing import Any

import pytest

from cluster import local_machine
from pipeline.core.errors import ConfigError
from pipeline.core.stage import Resources
from pipeline.core.workers import ClusterNode
from pipeline.engine.plan import Plan
from pipeline.recipes import run_options
from pipeline.recipes.recipe import RECIPES, load_recipe
from pipeline.recipes.run_options import RunOptions


def machine(monkeypatch: pytest.MonkeyPatch, num_cpus: int, num_gpus: int, *, has_cuda: bool = True) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(local_machine, "count_cores", lambda: num_cpus)
    for module in (local_machine, run_options):
        monkeypatch.setattr(module, "count_gpus", lambda: num_gpus)
        monkeypatch.setattr(module, "has_cuda", lambda: has_cuda)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RunOptions(workers="2"), Resources(num_workers=2)),
        (RunOptions(workers="2", train_threads=2), Resources(num_workers=1, cpus_per_worker=2)),
        (RunOptions(workers="1", train_threads=2), Resources(num_workers=1, cpus_per_worker=1)),
        (RunOptions(workers="4:8", train_threads=2), Resources(num_workers=4, min_workers=2, cpus_per_worker=2)),
        (RunOptions(workers="4", train_threads=2, gpus_per_worker=1), Resources(num_workers=4, gpus_per_worker=1)),
    ],
)
def test_threads_divide_the_workers_but_on_gpus(
    options: RunOptions, expected: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 64, 0)
    assert options.to_train == expected


@pytest.mark.parametrize(
    ("cpus", "gpus", "given", "on_cpus", "on_devices", "to_train"),
    [
        (1, 0, {}, "1 x 1 core", "1 x 1 core", "1 x 1 core"),
        (2, 0, {}, "2 x 1 core", "2 x 1 core", "1 x 2 cores"),
        (64, 0, {}, "64 x 1 core", "64 x 1 core", "8 x 8 cores"),
        (64, 0, {"train_threads": 4}, "64 x 1 core", "64 x 1 core", "16 x 4 cores"),
        (64, 0, {"num_cpus": 4}, "4 x 1 core", "4 x 1 core", "2 x 2 cores"),
        (16, 1, {}, "16 x 1 core", "1 x 1 GPU", "1 x 1 GPU"),
        (64, 8, {}, "64 x 1 core", "8 x 1 GPU", "8 x 1 GPU"),
        (64, 8, {"gpus_per_worker": 0.0}, "64 x 1 core", "64 x 1 core", "8 x 8 cores"),
        (64, 8, {"gpus_per_worker": 2.0}, "64 x 1 core", "4 x 2 GPUs", "4 x 2 GPUs"),
        (64, 8, {"workers": "2"}, "2 x 1 core", "2 x 1 GPU", "2 x 1 GPU"),
        (64, 2, {"workers": "16"}, "16 x 1 core", "2 x 1 GPU", "2 x 1 GPU"),
        (64, 2, {"workers": "4:auto"}, "64 x 1 core", "64 x 1 core", "8 x 8 cores"),
        (64, 8, {"in_process": True}, "64 x 1 core", "1 x 1 GPU", "1 x 1 GPU"),
    ],
)
def test_auto_takes_what_this_machine_has(
    cpus: int,
    gpus: int,
    given: dict[str, Any],
    on_cpus: str,
    on_devices: str,
    to_train: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(monkeypatch, cpus, gpus)
    options = RunOptions(**given)
    assert [each.words for each in (options.on_cpus, options.on_devices, options.to_train)] == [
        on_cpus,
        on_devices,
        to_train,
    ]
    assert f"{given.get('num_cpus', cpus)} cores and {gpus} GPUs" in options.workers_note


def test_gpus_that_torch_cannot_use_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4, 2, has_cuda=False)
    assert RunOptions().on_devices.words == "4 x 1 core"
    assert "2 GPUs of this machine, which torch was installed without CUDA for" in RunOptions().workers_note


def test_a_cluster_decides_when_a_stage_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 4, 0)
    for options in (RunOptions(address="10.0.0.5:6379"), RunOptions(address="10.0.0.5:6379", train_threads=4)):
        assert options.on_cpus.is_auto_workers
        assert options.to_train.is_auto_gpus
        assert options.to_train.cpus_per_worker == (options.train_threads or 1)
    machines = [ClusterNode(num_cpus=2), ClusterNode(num_cpus=8, num_gpus=2)]
    assert options.on_cpus.on_nodes(machines).words == "10 x 1 core"
    assert options.to_train.on_nodes(machines).words == "2 x 1 GPU"
    assert options.to_train.on_nodes(machines[:1]).num_workers == 1, "four threads fit on no node of two cores"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    assert RunOptions().on_cpus.is_auto_workers


def test_what_is_there_changes_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(plan: Plan) -> list[str]:
        return [node.key for node in plan.nodes]

    for name in ("demo", "moving-mnist"):
        recipe, plans = load_recipe(name), []
        for cpus, gpus in ((2, 0), (64, 8)):
            machine(monkeypatch, cpus, gpus)
            plans.append(keys(recipe.build(recipe.options())))
        plans.append(keys(recipe.build(recipe.options(workers="3", gpus_per_worker=0.0))))
        assert plans[0] == plans[1] == plans[2]


def test_the_demo_alone_keeps_the_workers_that_its_figures_were_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 64, 8)
    demo = load_recipe("demo").options()
    assert demo.to_train == Resources(num_workers=2)
    assert demo.workers_note == ""
    assert {name for name in RECIPES if load_recipe(name).options.workers != "auto"} == {"demo"}


def test_a_member_has_a_thread() -> None:
    with pytest.raises(ConfigError, match="train_threads is 0"):
        RunOptions(train_threads=0)
