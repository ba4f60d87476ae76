"""A published model: the bytes that load elsewhere, and a card whose every figure stands in the store's artifacts."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pipeline.commands.table import main
from pipeline.core.errors import ConfigError, CorruptArtifact, UsageError
from pipeline.engine.store import Manifest, Store
from stages.evaluation.artifacts import Forecast, Scores
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models.artifacts import Encoder
from stages.models.pretrained import load_encoder
from tests.pipeline.small_demo import TINY_DEMO


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A tiny demo with two encoders, made in this process."""
    root = str(tmp_path_factory.mktemp("published") / "store")
    assert main(["run", *TINY_DEMO, "--num-encoders", "2", "--store", root]) == 0
    return Store.open(root)


def manifests_of(store: Store, stage: str) -> list[Manifest]:
    return list(store.manifests(stage))


def card_of(text: str) -> tuple[dict[str, object], str]:
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_an_encoder_loads_from_where_it_was_published(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "model"
    for manifest in manifests_of(store, "pretrain"):
        arguments = ["publish", manifest.key, str(out), "--licence", "cc-by-4.0", "--store", store.root]
        assert main(arguments) == 0  # the second over the first
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.safetensors"]
    ours, published = load_encoder(store.directory("pretrain", manifest.key)), load_encoder(str(out))
    x_NTD = np.random.default_rng(0).normal(size=(2, 16, ours.composite.config.dim)).astype(np.float32)
    np.testing.assert_array_equal(ours.represent(x_NTD), published.represent(x_NTD))
    head, body = card_of((out / "README.md").read_text())
    assert (head["license"], head["library_name"]) == ("cc-by-4.0", "percepts")
    assert 'load_encoder(".")' in body
    assert str(tmp_path) not in body  # nobody else has this path
    assert hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() in body
    loss = Encoder(store.directory("pretrain", manifest.key), manifest.key).metrics(manifest.facts).values
    assert f"| validation loss | {loss['validation_loss']:.4g} |" in body
    for made in store.manifests():
        if made.stage in ("synthesize", "ingest", "extract", "standardize"):
            assert f"| `{made.key}` | {made.stage} |" in body
    assert re.search(r"\| `(model\.)?num_units` \| 16 \|", body)


def test_the_card_has_the_accuracies_of_the_arms_that_start_from_it(store: Store, tmp_path: Path) -> None:
    key = manifests_of(store, "pretrain")[0].key
    assert main(["publish", key, str(tmp_path), "--store", store.root]) == 0
    (evaluation,) = manifests_of(store, "evaluate")
    table = Scores(store.directory("evaluate", evaluation.key), evaluation.key).read()
    _, body = card_of((tmp_path / "README.md").read_text())
    rows = dict(re.findall(r"^\| (LSTM [a-z ]+) \| (.*) \|$", body, re.MULTILINE))
    assert list(rows) == ["LSTM from scratch", "LSTM pretrained"]
    scores = [table.score("LSTM pretrained", count) for count in table.label_counts]
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", rows["LSTM pretrained"])]
    expected = [100 * value for score in scores if score for value in (score.mean, score.low, score.high)]
    assert numbers == pytest.approx(expected, abs=0.051)
    assert [score.over for score in scores if score] == ["encoders and samplings"] * 2
    assert "and, where a row was pretrained, its 2 encoders" in body


def test_the_card_has_forecasts_with_intervals(store: Store, tmp_path: Path) -> None:
    (made,) = manifests_of(store, "forecast")
    (key,) = made.inputs["encoders"]
    assert main(["publish", key, str(tmp_path), "--store", store.root]) == 0
    errors = Forecast(store.directory("forecast", made.key), made.key).read()
    (model,) = {ratio.model for ratio in errors.ratios}
    ratios = "; ".join(f"{r.baseline} {r.ratio:.3g} ({r.low:.3g} to {r.high:.3g})" for r in errors.ratios)
    body = (tmp_path / "README.md").read_text()
    assert f"| {model} | {errors.means[model]:.4g} | {ratios} |" in body
    assert f"| mean frame | {errors.means['mean frame']:.4g} | |" in body


def test_classifiers_are_published_too(store: Store, tmp_path: Path) -> None:
    made = next(m for m in manifests_of(store, "finetune") if m.inputs["encoder"])
    assert main(["publish", made.key, str(tmp_path), "--name", "walks *best*", "--store", store.root]) == 0
    trained = TrainedClassifiers.load(str(tmp_path / "model.safetensors"))
    assert trained.encoder == made.inputs["encoder"]
    assert torch.isfinite(next(trained.classifier.parameters())).all()
    assert "# walks \\*best\\*" in (tmp_path / "README.md").read_text()


def test_what_cannot_be_published_is_said_in_one_line(store: Store, tmp_path: Path) -> None:
    key = manifests_of(store, "pretrain")[0].key
    with pytest.raises(UsageError, match=f"no model pretrain-0; its models are: .*{key}"):
        main(["publish", "pretrain-0", str(tmp_path), "--store", store.root])
    with pytest.raises(UsageError, match="no model evaluate-"):
        main(["publish", manifests_of(store, "evaluate")[0].key, str(tmp_path), "--store", store.root])
    with pytest.raises(ConfigError, match="--licence is 'my own'"):
        main(["publish", key, str(tmp_path), "--licence", "my own", "--store", store.root])
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds holiday\.jpg"):
        main(["publish", key, str(tmp_path), "--store", store.root])
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    weights = copy / "pretrain" / key / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptArtifact, match=r"model\.safetensors is damaged"):
        main(["publish", key, str(tmp_path / "out"), "--store", str(copy)])
    assert not (tmp_path / "out").exists()
