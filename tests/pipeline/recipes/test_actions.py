"""Recipe actions: labels of one's own, by list or by folder, to a classifier that names videos it has not seen."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.commands.running.recipe_options import parse
from pipeline.commands.table import main as percepts
from pipeline.core.errors import ConfigError, CorruptArtifact, SourceError
from pipeline.engine.plan import Node
from pipeline.engine.store import Manifest, Store
from pipeline.recipes.recipe import load_recipe
from pipeline.run import main
from pipeline.upkeep.takedown import take_down
from stages.evaluation.artifacts import Scores
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.ingest import IngestConfig, label_of
from stages.models.config import MODEL_FILE
from stages.serving.artifacts import Actions
from stages.serving.video_classifier import VideoClassifier
from stages.video.artifacts import Index
from stages.video.ledger import VideoRecord
from stages.video.sources import VideoSource

NUM_FRAMES, NUM_CLIPS = 12, 8
LABELS = {"brightening": 6, "darkening": -6, "still": 0}
"""Label -> change of brightness from frame to frame: a single frame in the middle tells nothing."""
RUN = ("--in-process", "--no-tracking", "--workers", "1")
SMALL = (
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "32", "--extract.decode.crop-px", "32", "--extract.decode.short-side-px", "32"),
    *("--pretrain.num-units", "8", "--pretrain.num-frames-in", "6", "--pretrain.num-frames-out", "4"),
    *("--pretrain.batch-size", "8", "--pretrain.num-steps", "8", "--pretrain.window-stride", "1"),
)
ARMS = tuple(
    flag
    for arm in ("single-frame", "scratch", "finetuned")
    for flag in (f"--{arm}.num-frames", "8", f"--{arm}.num-full-samplings", "2", f"--{arm}.num-samplings", "2")
)


def paint(path: Path, change: int, seed: int) -> None:
    """An H.264 video of 64x48 pixels whose brightness changes so much a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texture = np.random.default_rng(seed).integers(100, 156, (48, 64, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(NUM_FRAMES):
            image = (texture + change * (number - NUM_FRAMES // 2)).clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labelled/<label>/<number>.mp4, and more/<number>.mp4 without a label."""
    folder = tmp_path_factory.mktemp("clips")
    for place, (label, change) in enumerate(LABELS.items()):
        for number in range(NUM_CLIPS):
            paint(folder / "labelled" / label / f"{number}.mp4", change, seed=100 * place + number)
    for number in range(4):
        paint(folder / "more" / f"{number}.mp4", 5 - 3 * number, seed=1000 + number)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("actions") / "store"


def planned(store: Path, *flags: str) -> dict[str, Node]:
    recipe = load_recipe("actions")
    return {node.name: node for node in recipe.build(parse(recipe, ["--store", str(store), *RUN, *flags])).nodes}


def run(store: Path, *flags: str) -> dict[str, Manifest]:
    """Runs the recipe; returns the manifests of its artifacts by the names of the nodes."""
    assert main(["actions", "--store", str(store), *RUN, *flags]) == 0
    manifests = {manifest.key: manifest for manifest in Store.open(str(store)).manifests()}
    return {name: manifests[node.key] for name, node in planned(store, *flags).items()}


def records_of(store: Path, manifest: Manifest) -> list[VideoRecord]:
    return Index(str(store / manifest.stage / manifest.key)).records()


def write_list(path: Path, folder: Path, *, part: bool = False) -> Path:
    rows = ["uri,label,part" if part else "uri,label"]
    for label in LABELS:
        for number in range(NUM_CLIPS):
            of_row = ",test" if number >= 6 else ",train"
            rows.append(f"{folder}/labelled/{label}/{number}.mp4,{label}{of_row if part else ''}")
    path.write_text("\n".join(rows))
    return path


def test_folders_of_labels_become_a_classifier(store: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--videos", str(folder / "labelled"), "--folder-labels", "--labels-per-class", "2", "0", *SMALL, *ARMS)
    made = run(store, *flags)
    capsys.readouterr()
    parts = Counter((record.label, record.part) for record in records_of(store, made["ingest"]))
    assert parts == {(label, part): num for label in LABELS for part, num in (("train", 6), ("test", 2))}
    scores = Scores(str(store / "evaluate" / made["evaluate"].key)).read()
    assert scores.models == ("single frame", "LSTM from scratch", "LSTM pretrained")
    assert set(scores.label_counts) == {0, 2}
    assert scores.num_test_clips == 6
    assert set(scores.class_names) == set(LABELS)
    best = max(score.mean for model in scores.models if (score := scores.score(model, 0)) is not None)
    assert best > 0.7  # chance is 0.33: what it learned are these labels

    # The classifier of the run names a video that it has not seen.
    paint(folder / "new.mp4", 6, seed=5000)
    classifier = str(store / "finetune" / made["finetune LSTM from scratch"].key)
    assert percepts(["classify", classifier, str(folder / "new.mp4"), "--json"]) == 0
    assert {action["action"] for action in json.loads(capsys.readouterr().out)["actions"]} == set(LABELS)


def test_a_collection_is_classified_as_single_videos_are(
    tmp_path: Path, store: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(store, "--videos", str(folder / "labelled"), "--folder-labels", *SMALL, *ARMS)
    key = made["finetune LSTM from scratch"].key
    listed = write_list(tmp_path / "labels.csv", folder)
    # Labels count wherever their list stands.
    flags = ["--classifier", key, "--videos", str(folder / "more"), str(folder / "labelled"), str(listed)]
    assert main(["classify", "--store", str(store), *RUN, *flags]) == 0
    (manifest,) = Store.open(str(store)).manifests("classify")
    table = Actions(str(store / "classify" / manifest.key)).table()
    assert json.loads(table.schema.metadata[b"classes"]) == sorted(LABELS)
    rows = table.to_pylist()
    classifier = VideoClassifier(TrainedClassifiers.load(str(store / "finetune" / key / MODEL_FILE)))
    for row in rows:
        answer = classifier(row["uri"])
        assert (row["action"], row["num_windows"]) == (answer.action, len(answer.start_us_W))
        np.testing.assert_allclose(row["probabilities"], answer.overall, rtol=1e-4, atol=1e-6)
        assert row["probability"] == max(row["probabilities"])
    assert [row["label"] for row in rows] == [label for label in LABELS for _ in range(NUM_CLIPS)] + [None] * 4
    learned = {video for sampling in classifier.trained.clips for video in sampling}
    num_right = sum(row["action"] == row["label"] for row in rows if row["video"] not in learned)
    assert len(learned) == 18
    assert (manifest.facts["num_videos_labelled"], manifest.facts["num_videos_right"]) == (6, num_right)
    assert f"Of 6 new videos with a label, {num_right} are named as it" in " ".join(capsys.readouterr().out.split())

    # A row a window, by a file of elsewhere.
    file = str(store / "finetune" / key / MODEL_FILE)
    flags = ["--classifier", file, "--videos", str(folder / "more"), "--classify.per", "window"]
    assert main(["classify", "--store", str(tmp_path / "other"), *RUN, *flags]) == 0
    (manifest,) = Store.open(str(tmp_path / "other")).manifests("classify")
    table = Actions(str(tmp_path / "other" / "classify" / manifest.key))
    assert [pq.ParquetFile(uri).num_row_groups for uri in table.files()] == [1]
    for row in table.table().to_pylist():
        answer = classifier(row["uri"])
        np.testing.assert_allclose(row["probabilities"], answer.probabilities_WC[row["window"]], rtol=1e-4, atol=1e-6)
        assert row["start_us"] == answer.start_us_W[row["window"]]

    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(file).read_bytes()[:-1])
    for name, error, words in (
        ("finetune-0123456789abcdef", ConfigError, "does not have"),
        (made["pretrain"].key, ConfigError, "does not have"),
        (str(store / "finetune" / key / "labels-all-samplings-000-001.safetensors"), ConfigError, "no single classifi"),
        (str(cut), CorruptArtifact, "cut.safetensors is not a model file"),
    ):
        recipe = load_recipe("classify")
        options = parse(recipe, ["--store", str(store), *RUN, "--classifier", name, "--videos", str(folder)])
        with pytest.raises(error, match=words):
            recipe.build(options)


def test_a_list_of_labels_beside_videos_without_one(tmp_path: Path, store: Path, folder: Path) -> None:
    """The unlabelled ones are learned from, too; none of them is tested, nor learned by classifiers."""
    listed = write_list(tmp_path / "labels.csv", folder)
    made = run(store, "--videos", str(listed), str(folder / "more"), *SMALL, *ARMS)
    parts = Counter((record.label is not None, record.part) for record in records_of(store, made["ingest"]))
    assert parts == {(True, "train"): 18, (True, "test"): 6, (False, "unlabelled"): 4}
    facts = made["pretrain"].facts
    assert facts["training/num_videos"] + facts["validation/num_videos"] == 18 + 4
    assert Scores(str(store / "evaluate" / made["evaluate"].key)).read().num_test_clips == 6


def test_an_encoder_that_is_there_is_not_pretrained_again(tmp_path: Path, store: Path, folder: Path) -> None:
    flags = ("--videos", str(folder / "labelled"), "--folder-labels")
    first = run(store, *flags, *SMALL, *ARMS)
    made = run(store, *flags, "--encoder", first["pretrain"].key, *ARMS)
    assert "pretrain" not in made
    assert made["extract"].key == first["extract"].key  # the encoder says how videos become percepts
    assert made["finetune LSTM pretrained"].inputs["encoder"] == first["pretrain"].key
    # Elsewhere it is copied, and the classifiers are the same.
    file = str(store / "pretrain" / first["pretrain"].key)
    elsewhere = planned(tmp_path / "other", *flags, "--encoder", file, *ARMS)
    assert elsewhere["encoder"].stage.name == "import_encoder"
    assert elsewhere["finetune LSTM pretrained"].key == made["finetune LSTM pretrained"].key


def test_what_was_taken_down_counts_nowhere(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The percepts are those of the first run, whose ledger was written before."""
    store, flags = tmp_path / "store", ("--videos", str(folder / "labelled"), "--folder-labels", *SMALL, *ARMS)
    first = run(store, *flags)
    of_still = [record for record in records_of(store, first["ingest"]) if record.label == "still"]
    parts = {record.part: record.sha256 for record in of_still}
    assert set(parts) == {"train", "test"}
    for video in parts.values():
        take_down(Store.open(str(store)), video)
    capsys.readouterr()
    seeds = [word for name in ("pretrain", "single-frame", "scratch", "finetuned") for word in (f"--{name}.seed", "7")]
    again = run(store, *flags, *seeds, "--pretrain.few-videos", "500")
    assert again["extract"].finished_at == first["extract"].finished_at
    assert "17 videos to learn from, fewer than few_videos=500" in capsys.readouterr().out
    assert again["pretrain"].facts["training/num_videos"] + again["pretrain"].facts["validation/num_videos"] == 17
    assert again["finetune LSTM pretrained"].facts["training/num_videos"] == 17
    assert again["evaluate"].facts["test/num_videos"] == 5
    for record in of_still:
        take_down(Store.open(str(store)), record.sha256)
    check = planned(store, *flags)["ingest"].check
    assert check is not None
    assert "warning: 1 label without a usable video: 'still'" in list(
        check(Index(str(store / "ingest" / first["ingest"].key)))
    )


def test_several_encoders_are_one_row(tmp_path: Path, folder: Path) -> None:
    flags = ("--videos", str(folder / "labelled"), "--folder-labels", "--num-encoders", "2", *SMALL, *ARMS)
    made = run(tmp_path / "store", *flags)
    assert made["pretrain"].key != made["pretrain, encoder 2"].key
    assert made["finetune LSTM pretrained, encoder 2"].inputs["encoder"] == made["pretrain, encoder 2"].key
    scores = Scores(str(tmp_path / "store" / "evaluate" / made["evaluate"].key)).read()
    assert scores.models == ("single frame", "LSTM from scratch", "LSTM pretrained")


def test_a_plan_says_which_labels_are_listed(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = write_list(tmp_path / "labels.csv", folder)
    for videos, words in (
        (("--videos", str(folder), str(listed)), "3 labels of 24 videos: 'brightening' 8, 'darkening' 8, 'still' 8; "),
        (("--videos", str(folder / "labelled"), "--folder-labels"), "3 labels of 24 videos: 'brightening' 8"),
        (("--videos", str(folder / "more")), "0 labels of 0 videos; 4 videos without a label"),
    ):
        assert main(["actions", "--plan", "--store", str(tmp_path / "store"), *RUN, *videos]) == 0
        (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ingest: ")]
        assert words in said


def test_parts_of_a_list_are_kept(tmp_path: Path, folder: Path) -> None:
    listed = write_list(tmp_path / "labels.csv", folder, part=True)
    nodes = planned(tmp_path / "store", "--videos", str(listed), *SMALL)
    check = nodes["ingest"].check
    assert check is not None
    made = run(tmp_path / "store", "--videos", str(listed), *SMALL, *ARMS)
    numbers = {
        Path(record.uri).stem for record in records_of(tmp_path / "store", made["ingest"]) if record.part == "test"
    }
    assert numbers == {"6", "7"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a,walk,", "b,walk,"], "two labels to learn from, and these have 1"),
        (["a,,", "b,,"], "these have 0.*--folder-labels"),
        (["a,walk,train", "b,run,train"], "no labelled video is left to test on"),
        (["a,walk,train", "b,run,train", "c,jump,test"], "labels that no video of part train has: 'jump'"),
        (["a,walk,valid", "b,run,valid"], "these have 0 .*2 of part valid"),
    ],
)
def test_labels_that_cannot_be_learned_end_the_run_before_a_frame_is_decoded(
    tmp_path: Path, folder: Path, rows: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("a", "b", "c")):
        paint(tmp_path / f"{name}.mp4", number, seed=number)
    lines = [f"{tmp_path}/{row.replace(',', '.mp4,', 1)}" for row in rows]
    if len(lines) < 3:
        lines.append(f"{folder}/more/0.mp4,,")  # so that there are three videos
    listed = tmp_path / "labels.csv"
    listed.write_text("\n".join(["uri,label,part", *lines]))
    with pytest.raises(SourceError, match=words):
        main(["actions", "--store", str(tmp_path / "store"), *RUN, "--videos", str(listed), *SMALL, *ARMS])
    assert not (tmp_path / "store" / "extract").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["copy.mp4,darkening,,"], "same video"),
        (["labelled/still/6.mp4,still,test,one", "labelled/still/7.mp4,still,train,one"], "group 'one'"),
    ],
)
def test_lists_that_contradict_themselves_end_the_run_before_a_frame_is_decoded(
    tmp_path: Path, folder: Path, rows: list[str], words: str
) -> None:
    (folder / "copy.mp4").write_bytes((folder / "labelled" / "brightening" / "0.mp4").read_bytes())
    others = [f"labelled/{label}/{number}.mp4,{label},," for label in LABELS for number in range(6)]
    listed = tmp_path / "labels.csv"
    listed.write_text("\n".join(["uri,label,part,group", *(f"{folder}/{row}" for row in (*others, *rows))]))
    with pytest.raises(SourceError, match=words):
        main(["actions", "--store", str(tmp_path / "store"), *RUN, "--videos", str(listed), *SMALL, *ARMS])
    assert not (tmp_path / "store" / "extract").exists()


def test_groups_lie_on_one_side_whatever_has_a_label_or_a_part(tmp_path: Path, folder: Path) -> None:
    """A row without a part follows its group, and so do videos without a label; a list counts before a folder."""
    rows = [f"labelled/{label}/{number}.mp4,{label},," for label in LABELS for number in range(6)]
    rows += ["labelled/still/6.mp4,still,test,one", "labelled/still/7.mp4,still,,one", "more/0.mp4,,,one"]
    listed = tmp_path / "labels.csv"
    listed.write_text("\n".join(["uri,label,part,group", *(f"{folder}/{row}" for row in rows)]))
    for label in LABELS:  # copies without a label, whichever video is held out
        for number in range(6):
            copy = tmp_path / "copies" / f"{label}-{number}.mp4"
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes((folder / "labelled" / label / f"{number}.mp4").read_bytes())
    videos = (str(tmp_path / "copies"), str(folder / "labelled"), str(listed))
    made = run(tmp_path / "store", "--videos", *videos, *SMALL, *ARMS)
    records = records_of(tmp_path / "store", made["ingest"])
    assert {record.part for record in records if record.group == "one"} == {"test"}
    held_out = {record.sha256 for record in records if record.part == "test" and record.label is not None}
    assert all(record.part == "test" for record in records if record.sha256 in held_out)
    assert {record.label for record in records if record.sha256 in held_out} == {*LABELS, None}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--held-out", "0"), "held_out is 0"),
        (("--labels-per-class", "-1"), "labels_per_class"),
        (("--encoder", "e", "--pretrain.num-units", "4"), "no effect with --encoder"),
        (("--encoder", "e", "--extract.shard-frames", "4"), "no effect with --encoder"),
        (("--weights", "w"), "no effect without --encoder"),
        (("--finetuned.num-units", "4"), "the encoder decides it"),
        (("--finetuned.selection.learning-rates", "1e-4", "3e-4"), "other arms choose none"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        planned(tmp_path, "--videos", "clips", *flags)


@pytest.mark.parametrize(
    ("uri", "label"),
    [
        ("/clips/walking/a.mp4", "walking"),
        ("s3://bucket/walking/a.mp4", "walking"),
        ("s3://bucket/a.mp4", None),
        ("https://example.org/a.mp4", None),
        ("https://example.org/walking/a.mp4?signature=b/c", "walking"),
        ("s3://bucket/store/unpacked/0123456789abcdef/files/walking/a.mp4", "walking"),
        ("s3://bucket/store/unpacked/0123456789abcdef/files/a.mp4", None),
        ("/clips/files/a.mp4", "files"),
    ],
)
def test_a_server_a_bucket_or_an_archive_is_no_label(uri: str, label: str | None) -> None:
    assert label_of(VideoSource(uri=uri), IngestConfig(folder_labels=True)) == label


def test_indexes_of_before_keep_their_keys() -> None:
    """What came later is no part of a key while it is not asked for."""
    from pipeline.core.stage import config_dict

    assert {"held_out_labelled", "folder_labels"}.isdisjoint(config_dict(IngestConfig()))
    assert config_dict(IngestConfig(folder_labels=True))["folder_labels"] is True
