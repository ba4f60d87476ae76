"""Pairs of settings of two stages: each fits, or is refused in one line with both flags when the plan is built."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.running.recipe_options import parse
from pipeline.core.errors import UsageError
from pipeline.engine.plan import Plan
from pipeline.recipes.recipe import load_recipe
from stages.models.composite import Composite
from stages.models.config import CompositeConfig
from stages.models.pretrained import Pretrained

ALL_ARMS = ("single-frame", "scratch", "pretrained")


def plan_of(name: str, *flags: str) -> Plan:
    recipe = load_recipe(name)
    return recipe.build(parse(recipe, flags))


def arms(option: str, value: str) -> list[str]:
    return [word for arm in ALL_ARMS for word in (f"--{arm}.{option}", value)]


@pytest.fixture
def clips(tmp_path: Path) -> str:
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.mp4").write_bytes(bytes([number]))
    return str(folder)


PAIRS: list[tuple[str, list[str], tuple[str, ...]]] = [
    # Units and layers: encoder and classifiers.
    ("demo", ["--pretrain.num-units", "64"], ()),
    ("demo", ["--pretrain.num-units", "64", "--pretrained.num-units", "64"], ()),
    ("demo", ["--pretrain.num-layers", "2"], ()),
    ("demo", ["--pretrain.num-units", "64", "--pretrained.num-units", "96"], ("pretrained.num-units 96", "64 units")),
    ("demo", ["--pretrained.num-units", "64"], ("--pretrained.num-units 64", "--pretrain.num-units")),
    ("demo", ["--scratch.num-units", "64"], ()),
    # Loss and transform.
    ("demo", ["--pretrain.loss", "bernoulli"], ("--pretrain.loss bernoulli", "--pretrain.transform.kind")),
    ("demo", ["--pretrain.loss", "bernoulli", "--pretrain.transform.kind", "squashed"], ()),
    ("youtube", ["--pretrain.loss", "bernoulli"], ("--pretrain.loss bernoulli", "--pretrain.transform.kind")),
    ("moving-mnist", ["--pretrain.loss", "gaussian"], ()),
    ("patches", ["--pretrain.loss", "bernoulli"], ("--pretrain.loss bernoulli", "patches are standardised")),
    # Frames of a window and of a clip.
    ("demo", ["--pretrain.num-frames-out", "20"], ("--pretrain.num-frames-out 20", "--corpus.labelled-frames 32")),
    ("demo", ["--pretrain.num-frames-out", "20", "--corpus.labelled-frames", "40"], ()),
    ("demo", ["--corpus.unlabelled-frames", "20"], ("--pretrain.num-frames-in 16", "--corpus.unlabelled-frames 20")),
    ("demo", ["--scratch.num-frames", "33"], ("--scratch.num-frames 33", "--corpus.labelled-frames 32")),
    ("demo", ["--extract.decode.rate-fps", "5"], ("--corpus.labelled-frames 32", "--extract.decode.rate-fps 5")),
    ("patches", ["--pretrain.num-frames-in", "20"], ("--cut.num-frames 29", "--pretrain.num-frames-in 20")),
    ("patches", ["--pretrain.num-frames-in", "20", "--cut.num-frames", "33"], ()),
    # Labels asked for, and labels that are there.
    ("demo", ["--corpus.num-train", "16"], ("--single-frame.labels-per-class 10", "--corpus.num-train 16")),
    ("demo", ["--corpus.num-train", "80"], ()),
    ("demo", ["--corpus.num-train", "16", *arms("labels-per-class", "2")], ()),
    ("demo", ["--tables"], ()),
    ("demo", ["--tables", *arms("selection.validation-fraction", "0.3"), *arms("selection.num-checks", "2")],
     ("labels-per-class 50", "--corpus.num-train 480")),
    # Clips held out, and what they are held out for.
    ("demo", ["--corpus.num-unlabelled", "1"], ("--corpus.num-unlabelled 1", "--pretrain.validation-fraction 0.")),
    ("demo", ["--corpus.num-unlabelled", "2"], ()),
    ("demo", ["--corpus.num-unlabelled", "1", "--pretrain.parts", "unlabelled", "train"], ()),
    ("demo", ["--corpus.num-unlabelled", "4", "--pretrain.validation-fraction", "0.9"], ("--corpus.num-unlabelled 4",)),
    ("demo", arms("selection.num-checks", "2"), ("--single-frame.selection", "validation-fraction")),
    ("demo", ["--scratch.selection.num-checks", "2", "--scratch.selection.validation-fraction", "0.2"],
     ("0.2 for --scratch", "0 for --pretrained")),
    ("ucf101", ["--validation-fraction", "0"], ("--validation-fraction 0", "--single-frame.selection")),
    # Arms that are compared.
    ("demo", ["--scratch.seed", "3"], ("--scratch.seed 3", "--pretrained.seed 0")),
    ("demo", arms("seed", "3"), ()),
    ("demo", ["--pretrained.num-samplings", "3"], ("--pretrained.num-samplings 3", "--scratch.num-samplings 10")),
    ("demo", ["--scratch.arm", "single frame"], ("--scratch.arm", "--single-frame.arm")),
    ("ucf101", ["--finetuned.seed", "3"], ("--finetuned.seed 3", "--scratch.seed 0")),
    # Parts.
    ("demo", ["--pretrain.parts", "unlabeled"], ("--pretrain.parts", "'unlabeled'")),
    ("demo", arms("part", "test"), ("--single-frame.part", "'test'")),
    ("demo", arms("part", "unlabelled"), ("--single-frame.part", "train")),
    # Crop and input, channels, layer.
    ("demo", ["--extract.convnet.input-px", "96"], ("crops to 64 px", "96 px")),
    ("demo", ["--extract.decode.flow", "dis"], ("--extract", "channels")),
    ("demo", ["--extract.convnet.layer", "blocks.99"], ("--extract.convnet.layer", "blocks.99")),
    ("demo", ["--extract.convnet.name", "vgg16"], ("--extract.convnet.layer", "'blocks.1'", "pool5")),
    ("demo", ["--extract.convnet.layer", "features"], ("--extract.convnet.grid", "2x2 map")),
    ("demo", ["--extract.convnet.name", "resnet"], ("resnet",)),
    # Models, decoders and tables.
    ("demo", ["--pretrain.feedback.probability", "0.5"], ("--pretrain.feedback", "conditional")),
    ("moving-mnist", ["--pretrain.feedback.probability", "0.5"], ("--pretrain.feedback", "--models")),
    ("ucf101", ["--tables", "4"], ("Table 4", "--flow-percepts")),
    ("ucf101", ["--tables", "curve", "--curve"], ("curve", "--tables")),
    ("ucf101", ["--splits", "4"], ("splits", "1, 2 and 3")),
    # Shares of few videos.
    ("youtube", [], ()),
    ("youtube", ["--held-out", "0", "--forecast.window-stride", "3"], ("--forecast", "--held-out 0")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "flags", "words"),
    PAIRS,
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "fits",
)
def test_a_pair_fits_or_is_refused(
    recipe: str, flags: list[str], words: tuple[str, ...], clips: str, shared_data: Path
) -> None:
    given = {"youtube": ["--videos", clips], "patches": ["--videos", clips]}
    lists = str(shared_data / "splits" / "ucf101")
    given["ucf101"] = ["--videos", clips, "--lists", lists]
    if not words:
        plan_of(recipe, *given.get(recipe, []), *flags)
        return
    with pytest.raises(UsageError) as refused:
        plan_of(recipe, *given.get(recipe, []), *flags)
    said = str(refused.value)
    assert "\n" not in said
    for word in words:
        assert word in said


def configs_of(plan: Plan) -> dict[str, Any]:
    return {node.name: node.config for node in plan.nodes}


def test_arms_take_the_size_of_the_encoder() -> None:
    configs = configs_of(plan_of("demo", "--pretrain.num-units", "64", "--pretrain.num-layers", "2"))
    for name in ("finetune pretrained", "finetune scratch"):
        assert (configs[name].classifier.num_units, configs[name].classifier.num_layers) == (64, 2)
    own = configs_of(plan_of("demo", "--pretrain.num-units", "64", "--scratch.num-units", "32"))
    assert own["finetune scratch"].classifier.num_units == 32
    assert own["finetune pretrained"].classifier.num_units == 64


def test_labels_are_counted_in_the_official_lists(clips: str, shared_data: Path) -> None:
    lists = str(shared_data / "splits" / "ucf101")
    given = ["--videos", clips, "--lists", lists]
    with pytest.raises(UsageError, match=r"--curve 500 is more than the \d+ clips of class '\w+' that split 1"):
        plan_of("ucf101", *given, "--curve", "1", "500")


def test_one_video_is_too_few(tmp_path: Path) -> None:
    (tmp_path / "only.mp4").write_bytes(b"x")
    for flags, needed in (([], "3 are needed"), (["--held-out", "0"], "2 are needed")):
        with pytest.raises(UsageError, match=f"--videos names 1 video, and {needed}"):
            plan_of("youtube", "--videos", str(tmp_path / "only.mp4"), *flags)
    with pytest.raises(UsageError, match="--videos names 1 video, and 3 are needed"):
        plan_of("patches", "--videos", str(tmp_path / "only.mp4"))


@pytest.mark.parametrize(
    ("flags", "is_refused"),
    [
        (("--held-out", "0.9"), True),
        (("--held-out", "0.99"), True),
        (("--held-out", "0.5", "--pretrain.validation-fraction", "0.8"), False),
        (("--held-out", "0.5", "--pretrain.validation-fraction", "0.9"), True),
        (("--held-out", "0", "--pretrain.validation-fraction", "0.95"), True),
        ((), False),
    ],
)
def test_held_out_videos_leave_some_to_learn_from(tmp_path: Path, flags: tuple[str, ...], is_refused: bool) -> None:
    for number in range(8):
        (tmp_path / f"{number}.mp4").write_bytes(b"x" * (number + 1))
    refusal = pytest.raises(UsageError, match=r"--held-out .* of 8 videos") if is_refused else nullcontext()
    with refusal:
        plan_of("youtube", "--videos", str(tmp_path), *flags)
    listed = tmp_path / "list.csv"
    listed.write_text("uri,part\n" + "".join(f"{number}.mp4,{'train' if number else ''}\n" for number in range(8)))
    plan_of("youtube", "--videos", str(listed), *flags)  # parts of its own: nothing is known


def test_an_encoder_of_pixels_is_refused(tmp_path: Path) -> None:
    model = Composite(CompositeConfig(num_units=4, loss="bernoulli").spec(16))
    Pretrained(composite=model).save(str(tmp_path / "model.safetensors"))
    with pytest.raises(UsageError, match=r"--encoder .* learned from pixels"):
        plan_of("demo", "--encoder", str(tmp_path))
