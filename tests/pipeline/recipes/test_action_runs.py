"""Both recipes through the command line, on the few real clips that are there: they end with tables and a report.

Everything is as people run it (command line, plan, store, MLflow, report), with --in-process instead of Ray, which
test_run.py has. One store serves all runs, so that what is paid for once is seen to be paid for once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file

from pipeline.core.errors import DataSetError, UsageError
from pipeline.core.files import sha256_file
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.tracker import Tracker
from pipeline.engine.tracking.values import Registration
from pipeline.run import main
from stages.convnets import vgg16

CHEAP = [
    *("--allow-missing", "--curve", "1", "--validation-fraction", "0.2", "--workers", "1"),
    *("--extract.decode.short-side-px", "64", "--extract.decode.crop-px", "64", "--extract.shard-frames", "4096"),
    *("--extract.convnet.layer", "blocks.1", "--extract.convnet.grid", "1", "--extract.convnet.input-px", "64"),
    *(
        flag
        for arm in ("single-frame", "scratch", "finetuned")
        for name, value in (("epochs", "1"), ("steps", "4"), ("warmup-steps", "0"), ("samplings", "2"))
        for flag in (f"--{arm}.num-{name}", value)
    ),
    *(flag for arm in ("single-frame", "scratch", "finetuned") for flag in (f"--{arm}.batch-clips", "8")),
    *("--single-frame.selection.weight-decays", "0.01", "--scratch.selection.dropouts", "0.5"),
    *("--finetuned.selection.dropouts", "0.5"),
]
PRETRAIN = [
    *("--pretrain.num-steps", "4", "--pretrain.num-units", "8", "--pretrain.batch-size", "8"),
    *("--pretrain.checkpoint-every-steps", "4", "--pretrain.validate-every-steps", "4"),
    *("--pretrain.validation-fraction", "0.2", "--pretrain.num-frames-in", "6", "--pretrain.num-frames-out", "4"),
]

Run = Callable[..., tuple[str, dict[str, Manifest]]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("runs") / "store"), create=True)


@pytest.fixture(scope="module")
def run(store: Store, shared_data: Path) -> Run:
    """Runs a recipe; gives what it printed, and what it made anew by the node's name."""

    def run(recipe: str, *arguments: str) -> tuple[str, dict[str, Manifest]]:
        before = {manifest.key for manifest in store.manifests()}
        data = ["--videos", str(shared_data / recipe), "--lists", str(shared_data / "splits" / recipe)]
        has_encoder = {"--pretrained", "--unlabelled"} & set(arguments)
        size = [] if has_encoder else ["--scratch.num-units", "8"]
        with redirect_stdout(io.StringIO()) as said:
            options = [*data, *_unless_given(CHEAP, arguments), *size, *arguments, "--in-process"]
            assert main([recipe, *options, "--store", store.root]) == 0
        made = [manifest for manifest in store.manifests() if manifest.key not in before]
        return said.getvalue(), {manifest.name: manifest for manifest in made}

    return run


def _unless_given(options: Sequence[str], given: Sequence[str]) -> list[str]:
    """Drops the flags, with their values, that are given otherwise: an option may be there once."""
    flag, kept = "", []
    for word in options:
        flag = word if word.startswith("--") else flag
        kept += [] if flag in given else [word]
    return kept


def scores_of(store: Store, evaluated: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(store.directory("evaluate", evaluated.key), "scores.json").read_text())
    return found


def report_of(said: str) -> str:
    return Path(said.strip().splitlines()[-1]).read_text()


@pytest.fixture(scope="module")
def ucf(run: Run, shared_data: Path) -> tuple[str, dict[str, Manifest]]:
    """What the first run printed and made: it pretrains on the very clips."""
    return run("ucf101", "--unlabelled", str(shared_data / "ucf101"), *PRETRAIN)


@pytest.fixture(scope="module")
def pretrained(ucf: tuple[str, dict[str, Manifest]]) -> str:
    """Key of its model."""
    return ucf[1]["pretrain composite"].key


def test_ucf_without_a_split_to_judge_by_ends_with_empty_cells(
    ucf: tuple[str, dict[str, Manifest]], store: Store
) -> None:
    """All six clips are tested in split 1 and trained on in splits 2 and 3. That they are pretrained on as well is
    found by the check for near duplicates."""
    said, made = ucf
    assert "UCF-101 split 1: 0/9537 train, 6/3783 test: test clips only, nothing can be judged" in said
    assert "UCF-101 split 3: 6/9624 train, 0/3696 test: training clips only, nothing can be judged" in said
    assert "Nothing could be judged: no split has training and test clips that are there." in said
    assert "6 of the 13,320 clips of UCF-101 were there (0.045%)" in " ".join(said.split())
    assert len([line for line in said.splitlines() if "LSTM from scratch" in line and line.count("–") == 3]) == 1
    table = scores_of(store, made["evaluate"])
    assert (table["rows"], table["summary"], table["num_test_clips"]) == ([], [], 0)
    assert [(cell["model"], cell["labels_per_class"]) for cell in table["cells"]][-3:] == [
        ("composite", 1),
        ("composite", 10),
        ("composite", 0),
    ]
    html = report_of(said)
    for title in ("Table 1. Action recognition", "Table 3. Which pretraining", "Clips recognised, %"):
        (caption,) = [part.split("</caption>")[0] for part in html.split("<caption>") if title in part]
        assert "6 of the 13,320 clips of UCF-101 were there (0.045%)" in caption
        assert "split 2: 6 of 9,586 training and 0 of 3,734 test clips (training clips only: it judges" in caption
    assert "6 of 6 test clips look like one of the 6 videos that were pretrained on" in html
    assert made["finetune composite"].facts["num_labelled_clips"] == 6


def test_a_model_that_is_given_is_the_one_that_was_made_first(
    run: Run, store: Store, ucf: tuple[str, dict[str, Manifest]], pretrained: str
) -> None:
    """By key, by MLflow's name or by a registered one, the plan is the same to the last key: nothing is made again."""
    client = MlflowClient(store.default_tracking_uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    (run_of_key, *_) = client.search_runs(experiments, f"tags.key = '{pretrained}' and tags.stage = 'pretrain'")
    logged = client.search_logged_models(experiments)
    (model,) = [found for found in logged if found.source_run_id == run_of_key.info.run_id]
    said, made = run("ucf101", "--pretrained", f"models:/{model.model_id}")
    assert made == {}
    assert "Nothing was made anew" in said
    tracker = Tracker(store, store.default_tracking_uri, "ucf101")
    (manifest,) = [found for found in store.manifests("pretrain") if found.key == pretrained]
    tracker.register(Registration(manifest=manifest, target="encoder@champion"))
    num_nodes = len(ucf[1]) - 1  # the pretraining is given
    for given in (pretrained, "models:/encoder@champion", "models:/encoder/1"):
        assert f"{num_nodes} have, 0 to make" in run("ucf101", "--pretrained", given, "--plan")[0]
    with pytest.raises(UsageError, match="MLflow has no model 'models:/encoder@nobody'"):
        run("ucf101", "--pretrained", "models:/encoder@nobody")


@pytest.fixture(scope="module")
def hmdb(run: Run, pretrained: str) -> tuple[str, dict[str, Manifest]]:
    """What a run of the other data set printed and made, with the model that was pretrained for UCF-101."""
    return run("hmdb51", "--pretrained", pretrained)


def test_hmdb_is_judged_by_the_splits_that_can(hmdb: tuple[str, dict[str, Manifest]], store: Store) -> None:
    """All splits have clips of both sides."""
    said, made = hmdb
    assert "pretrain composite" not in made
    table = scores_of(store, made["evaluate"])
    sides = {split["number"]: (split["num_train"], split["num_test"]) for split in table["coverage"]}
    assert sides == {1: (1, 4), 2: (4, 2), 3: (3, 2)}
    assert {row["split"] for row in table["rows"]} == {1, 2, 3}
    assert "6 of the 6,766 clips of HMDB-51 were there (0.0887%)" in " ".join(said.split())
    assert "None of this is a statement about the whole data set." in said
    html = report_of(said)
    assert html.count("6 of the 6,766 clips of HMDB-51 were there") >= 3
    assert "Are test clips among the videos that were pretrained on?" in html


def test_table_4_goes_from_video_files_to_fused_cells(
    run: Run, store: Store, shared_data: Path, pretrained: str, hmdb: tuple[str, dict[str, Manifest]], tmp_path: Path
) -> None:
    """Optical flow of the real clips, through a temporal-stream network of random weights: no figure here is a good
    one, and every way from pixels to the table is gone."""
    torch.manual_seed(0)
    layers = vgg16.vgg16_layers("pool5", vgg16.STAGES, vgg16.FC_UNITS, vgg16.POOL5_CELLS, in_channels=2)
    weights = tmp_path / "flow.safetensors"
    save_file({name: value.detach() for name, value in layers.state_dict().items()}, weights)
    flow = [
        *("--extract.decode.flow", "dis", "--extract.decode.flow-stack", "1", "--extract.decode.rate-fps", "12"),
        *("--extract.decode.crop-px", "32", "--extract.convnet.input-px", "32", "--extract.convnet.in-channels", "2"),
        *("--extract.convnet.name", "vgg16_flow", "--extract.convnet.layer", "pool5"),
        *("--extract.convnet.weights", str(weights), "--extract.convnet.weights-sha256", sha256_file(str(weights))),
    ]
    clips = str(shared_data / "hmdb51")
    _, prepared = run("hmdb51", *flow, "--unlabelled", clips, *PRETRAIN, "--tables")
    assert prepared["extract"].config["decode"]["flow"] == "dis"
    streams = ["--flow-percepts", prepared["extract"].key, "--flow-pretrained", prepared["pretrain composite"].key]
    said, made = run("hmdb51", "--pretrained", pretrained, *streams, "--tables", "1", "3", "curve", "4")
    assert {name for name in made if not name.startswith("flow ")} == {"fuse"}  # RGB was paid for above
    fused = json.loads(Path(store.directory("fuse", made["fuse"].key), "scores.json").read_text())
    assert fused["dataset"] == "HMDB-51"
    cells = [cell["model"] for cell in fused["cells"]]
    assert cells[:3] == ["RGB", "flow", "RGB + flow, mean of log-probabilities"]
    mean = {row["model"]: row["mean"] for row in fused["summary"]}
    rgb = hmdb[1]["evaluate"]
    for stream, evaluated in (("RGB", rgb), ("flow", made["flow evaluate"])):
        (cell,) = [
            row
            for row in scores_of(store, evaluated)["summary"]
            if (row["model"], row["labels_per_class"]) == ("composite", 0)
        ]
        assert mean[stream] == pytest.approx(cell["mean"])
    html = report_of(said)
    assert "Table 4. RGB, flow, and both, HMDB-51" in html
    assert "Table 1. Action recognition by optical flow, HMDB-51" in html


@pytest.mark.parametrize("recipe", ["ucf101", "hmdb51"])
def test_who_lacks_clips_hears_it_before_a_video_is_opened(
    recipe: str, shared_data: Path, tmp_path: Path, store: Store, run: Run
) -> None:
    lists = ["--lists", str(shared_data / "splits" / recipe), "--store", store.root, "--in-process"]
    (tmp_path / "few").symlink_to(shared_data / recipe)
    before = len(list(store.manifests()))
    with pytest.raises(DataSetError, match=r"clips are missing \(.*, and \d+ more\).* give --allow-missing") as found:
        main([recipe, "--videos", str(tmp_path / "few"), *lists])
    assert "stage 'select_clips'" in str(found.value)
    assert found.value.instructions
    with pytest.raises(DataSetError, match=r"none of the .* clips .* is among the 22 videos given"):
        main([recipe, "--videos", str(shared_data / "web"), *lists, "--allow-missing"])
    assert len(list(store.manifests())) == before
