"""The recipes of the two data sets: what they ask for, and the nodes that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, DataSetError
from pipeline.engine.plan import Node, Plan
from pipeline.engine.store import Manifest, Store
from pipeline.recipes.arms import ATTENTION, MEAN_FRAMES, SINGLE_FRAME, TABLE_3_ROWS
from pipeline.recipes.model_variants import MODELS
from pipeline.recipes.recipe import load_recipe
from pipeline.run import main

NEIGHBOURS = (SINGLE_FRAME, MEAN_FRAMES, ATTENTION)
"""Rows that know no order of frames."""


@pytest.mark.parametrize(("recipe", "size"), [("ucf101", "6,932,971,618 bytes"), ("hmdb51", "51 rars")])
def test_without_the_data_it_says_what_to_put_where(recipe: str, size: str, tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"needs --videos .* and --lists; videos and lists missing") as found:
        main([recipe])
    assert size in found.value.instructions
    assert f"percepts run {recipe} --videos" in found.value.instructions
    with pytest.raises(DataSetError, match="; lists missing"):
        main([recipe, "--videos", str(tmp_path)])


@pytest.mark.parametrize("recipe", ["ucf101", "hmdb51"])
def test_one_command_plans_it(recipe: str, shared_data: Path, tmp_path: Path) -> None:
    options = load_recipe(recipe).options(
        videos=(str(shared_data / recipe),), lists=str(shared_data / "splits" / recipe), splits=(1, 2)
    )
    plan = load_recipe(recipe).build(options)
    nodes = {node.name: node for node in plan.nodes}
    assert list(nodes)[:5] == ["select_clips", "ingest", "assign_splits", "extract", "standardize"]
    assert nodes["select_clips"].config.data.dataset == nodes["assign_splits"].config.data.dataset == recipe
    assert nodes["ingest"].inputs["corpus"] is nodes["select_clips"]
    assert nodes["standardize"].config.splits == (1, 2)


def build(recipe: str, shared_data: Path, **changes: Any) -> Plan:
    options = load_recipe(recipe).options(
        videos=(str(shared_data / recipe),), lists=str(shared_data / "splits" / recipe), **changes
    )
    return load_recipe(recipe).build(options)


def test_an_arm_is_a_node_with_all_that_its_tables_need(shared_data: Path) -> None:
    unlabelled = (str(shared_data / "web"),)
    plan = build("hmdb51", shared_data, unlabelled=unlabelled, models=tuple(MODELS), allow_missing=True)
    arms = {node.config.arm: node for node in plan.nodes if node.stage.name == "finetune"}
    assert list(arms) == [*NEIGHBOURS, "LSTM from scratch", *TABLE_3_ROWS.values()]
    assert arms["single frame"].config.labels_per_class == (1, 2, 4, 10, 20, 50, 0)
    assert arms["composite"].config.labels_per_class == (1, 2, 4, 10, 20, 50, 0)
    assert arms["autoencoder"].config.labels_per_class == (4, 0)
    assert all(node.config.allow_fewer and node.config.splits == (1, 2, 3) for node in arms.values())
    for model, row in TABLE_3_ROWS.items():
        encoder = arms[row].inputs["encoder"]
        assert isinstance(encoder, Node)
        assert encoder.name == f"pretrain {model}"
    nodes = {node.name: node for node in plan.nodes}
    assert nodes["evaluate"].config.pairs[0] == ("single frame", "LSTM from scratch")
    assert len(nodes["evaluate"].config.pairs) == 12 + 4
    assert {row: arms[row].config.classifier.model for row in NEIGHBOURS} == dict(
        zip(NEIGHBOURS, ("frame", "mean", "attention"), strict=True)
    )
    assert nodes["evaluate"].config.splits == (1, 2, 3)
    assert nodes["near_duplicates"].inputs["pretraining"] is nodes["extract unlabelled"]
    assert {node.inputs["statistics"] for node in arms.values()} == {nodes["standardize unlabelled"]}


def test_small_is_ten_on_ucf_and_no_table_trains_nothing(shared_data: Path) -> None:
    plan = build("ucf101", shared_data, tables=("3",))
    (arm,) = [node for node in plan.nodes if node.stage.name == "finetune"]
    assert (arm.config.arm, arm.config.labels_per_class) == ("LSTM from scratch", (10, 0))
    assert [node.name for node in build("ucf101", shared_data, tables=()).nodes][-1] == "standardize"


def model_in(store: Store, key: str, config: dict[str, Any], *, inputs: str = "a") -> None:
    """Writes a manifest as `add_existing_models` reads it; models of even numbers have manifests of percepts 0.1."""
    sizes = {"num_units": 64, "num_layers": 2, "reconstruct_conditional": False, "predict_conditional": False}
    flat = {**sizes, **config}
    manifest = Manifest(
        stage="pretrain", version=1, key=key, name="pretrain", recipe="youtube",
        config=flat if key.endswith(("2", "4")) else {"model": flat},
        inputs={"percepts": f"extract-{inputs}", "statistics": f"standardize-{inputs}"},
    )  # fmt: skip
    store.commit(manifest)


def test_models_of_the_store_are_what_arms_start_from(shared_data: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path), create=True)
    model_in(store, "pretrain-1", {"decoders": "composite"})
    model_in(store, "pretrain-2", {"decoders": "future", "predict_conditional": True})
    model_in(store, "pretrain-3", {"decoders": "composite"})
    model_in(store, "pretrain-4", {"decoders": "autoencoder"}, inputs="b")

    def plan(*keys: str, **changes: Any) -> Plan:
        return build("ucf101", shared_data, store=str(tmp_path), pretrained=keys, **changes)

    found = plan("pretrain-1", "pretrain-2")
    arms = {node.config.arm: node for node in found.nodes if node.stage.name == "finetune"}
    assert list(arms) == [*NEIGHBOURS, "LSTM from scratch", "conditional future predictor", "composite"]
    assert arms["composite"].input_keys()["encoder"] == "pretrain-1"
    assert {node.input_keys()["statistics"] for node in arms.values()} == {"standardize-a"}
    assert (arms["composite"].config.classifier.num_units, arms["LSTM from scratch"].config.classifier.num_layers) == (
        64,
        2,
    )
    seeds = [
        n for n in plan("pretrain-1", "pretrain-3").nodes if n.stage.name == "finetune" and n.input_keys()["encoder"]
    ]
    assert [node.input_keys()["encoder"] for node in seeds] == ["pretrain-1", "pretrain-3"]
    assert [(node.name, node.config.arm) for node in seeds] == [
        ("finetune composite", "composite"),
        ("finetune composite, encoder 2", "composite"),
    ]
    with pytest.raises(ConfigError, match="pretrain-1 is named twice"):
        plan("pretrain-1", "pretrain-1")
    with pytest.raises(ConfigError, match="as many encoders each, and here are 2 of 'composite', 1 of 'conditional"):
        plan("pretrain-1", "pretrain-3", "pretrain-2")
    with pytest.raises(ConfigError, match="different percepts or statistics"):
        plan("pretrain-1", "pretrain-4")
    with pytest.raises(ConfigError, match=r"names 'pretrain-9', which the store .* it has: pretrain-1, pretrain-2"):
        plan("pretrain-9")
    with pytest.raises(ConfigError, match="give --pretrained or --unlabelled"):
        plan("pretrain-1", unlabelled=("web",))


def test_table_4_fuses_two_streams(shared_data: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path), create=True)
    model_in(store, "pretrain-1", {"decoders": "composite"})
    model_in(store, "pretrain-2", {"decoders": "composite"}, inputs="flow")
    given = {"store": str(tmp_path), "tables": ("1", "4"), "pretrained": ("pretrain-1",)}
    plan = build("ucf101", shared_data, **given, flow_percepts="extract-9", flow_pretrained=("pretrain-2",))
    nodes = {node.name: node for node in plan.nodes}
    assert nodes["flow finetune composite"].input_keys()["percepts"] == "extract-9"
    assert nodes["flow finetune composite"].input_keys()["statistics"] == "standardize-flow"
    assert nodes["fuse"].inputs["scores"] == (nodes["evaluate"], nodes["flow evaluate"])
    with pytest.raises(ConfigError, match="Table 4 needs a composite of each stream"):
        build("ucf101", shared_data, **given)


def test_the_demo_has_the_seven_rows_and_the_curve_for_the_asking() -> None:
    demo = load_recipe("demo")
    plain = [node.name for node in demo.build(demo.options()).nodes]
    plan = demo.build(demo.options(tables=True))
    arms = {node.config.arm: node.config for node in plan.nodes if node.stage.name == "finetune"}
    assert list(arms) == [*NEIGHBOURS, "LSTM from scratch", *TABLE_3_ROWS.values()]
    assert arms["composite"].labels_per_class == (1, 2, 4, 10, 20, 50, 0)
    choices = {(arm.selection.learning_rates, arm.selection.num_checks) for arm in arms.values()}
    assert choices == {((3e-4, 1e-3), 4), ((), 1)}  # of the mean of frames, C
    assert len(arms[MEAN_FRAMES].selection.candidates()) == 6
    assert not any(n.config.selection.is_on for n in demo.build(demo.options()).nodes if n.stage.name == "finetune")
    assert arms["conditional autoencoder"].labels_per_class == (4, 0)
    seeds = [node.config.training.seed for node in plan.nodes if node.stage.name == "pretrain"]
    assert seeds == [0] * 6 + [1] * 6 + [2] * 6
    one = demo.build(demo.options(tables=True, num_encoders=1))
    assert len([node for node in one.nodes if node.stage.name == "pretrain"]) == 6
    assert len(plain) == 11
    # Five more models, ten arms and one evaluation instead of four nodes; two more encoders a model, an arm for each.
    assert len(one.nodes) == 11 - 4 + 5 + 10 + 1
    assert len(plan.nodes) == len(one.nodes) + 2 * 6 * 2
