"""--warm-start: an encoder of last week by any of its names, with new videos, in one process without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.commands.running.recipe_options import parse
from pipeline.core.errors import ConfigError
from pipeline.engine.plan import Node, Plan
from pipeline.engine.store import Store
from pipeline.recipes.recipe import load_recipe
from pipeline.run import main
from stages.models.artifacts import Encoder
from tests.pipeline.small_store import encode_clips

SMALL = (
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "32", "--extract.decode.crop-px", "32", "--extract.decode.short-side-px", "32"),
    *("--pretrain.num-units", "6", "--pretrain.num-frames-in", "4", "--pretrain.num-frames-out", "3"),
    *("--pretrain.batch-size", "4", "--pretrain.num-passes", "2", "--pretrain.window-stride", "1"),
    *("--workers", "1", "--held-out", "0", "--pretrain.validation-fraction", "0.4"),
    *("--in-process", "--no-tracking"),
)


def planned(store: Path, *flags: str) -> dict[str, Node]:
    recipe = load_recipe("youtube")
    small = [SMALL[place : place + 2] for place in range(0, len(SMALL), 2)]
    others = [word for pair in small if pair[0] not in flags for word in pair]
    plan: Plan = recipe.build(parse(recipe, ["--store", str(store), *others, *flags]))
    return {node.name: node for node in plan.nodes}


def encoder_of(store: Path, key: str) -> Encoder:
    manifest = Store.open(str(store)).find("pretrain", key)
    assert manifest is not None
    return Encoder(str(store / "pretrain" / key), key)


def test_last_weeks_encoder_goes_on_with_new_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, clips = tmp_path / "store", encode_clips(tmp_path, 5)
    week_1 = ("--videos", *clips[:4])
    assert main(["youtube", "--store", str(store), *SMALL, *week_1]) == 0
    (first,) = Store.open(str(store)).manifests("pretrain")
    assert float(first.facts["num_sequences_seen"]) >= 2 * int(first.facts["num_sequences"])

    # By key, by place, and by MLflow's name, whose files are a copy: one key, which has the bytes of the encoder in it.
    folder = store / "pretrain" / first.key
    copied = tmp_path / "downloaded"
    shutil.copytree(folder, copied)
    monkeypatch.setattr("stages.models.header.resolve", lambda uri, _: str(copied) if "models:" in uri else uri)
    names = (first.key, str(folder), str(folder / "model.safetensors"), "models:/walks@best")
    plans = [planned(store, *week_1, "--warm-start", name) for name in names]
    keys = {plan["pretrain composite"].key for plan in plans}
    assert len(keys) == 1
    assert keys.isdisjoint({planned(store, *week_1)["pretrain composite"].key})
    assert {plan["warm start"].key for plan in plans} == {first.key}
    # Another store has it not, and copies it; the key is the same.
    foreign = planned(tmp_path / "other", *week_1, "--warm-start", str(copied))
    assert foreign["warm start"].stage.name == "import_encoder"
    assert keys == {foreign["pretrain composite"].key}

    # Unlike settings are refused while the plan is built, in one line that says what differs.
    for flags, words in (
        (("--pretrain.num-units", "7"), "has num_units 6, and this pretraining num_units 7"),
        (("--models", "future"), "has decoders composite, and this pretraining decoders future"),
        (("--extract.convnet.grid", "1"), "learned from percepts of extractor"),
    ):
        with pytest.raises(ConfigError, match=words) as refused:
            planned(store, *week_1, "--warm-start", first.key, *flags)
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"which the store .* does not have"):
        planned(store, *week_1, "--warm-start", "pretrain-0123456789abcdef")

    def losses(key: str) -> list[float | None]:
        history = encoder_of(store, key).history()
        assert history is not None
        return [point["loss"] for point in history.validation]

    # On the videos of the first week it begins with the loss that the encoder ended with.
    assert main(["youtube", "--store", str(store), *SMALL, *week_1, "--warm-start", first.key]) == 0
    same = planned(store, *week_1, "--warm-start", first.key)["pretrain composite"].key
    assert losses(same)[0] == losses(first.key)[-1]
    manifest = Store.open(str(store)).find("pretrain", same)
    assert manifest is not None
    assert manifest.inputs["warm_start"] == first.key
    # With new videos it goes through, report included.
    capsys.readouterr()
    assert main(["youtube", "--store", str(store), *SMALL, "--videos", *clips, "--warm-start", first.key]) == 0
    report = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert f"from {first.key} on" in report.read_text()
