"""Classifiers that train side by side become what they become alone; their files hold all that they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError, CorruptArtifact, SourceError, TrainingDiverged
from pipeline.core.files import read_bytes, write_bytes
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.finetuning.ensemble_training import train_ensemble
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models.classifier import (
    Classifier,
    MemberDropout,
    build_classifier,
    derived_seed,
    seed_dropout,
    seed_weights,
)
from stages.models.config import ClassifierSpec
from stages.percepts.transforms import Standardisation
from stages.pretraining.config import OptimizerConfig

G, S, T, B, D, C = 3, 6, 5, 4, 7, 3
KINDS: dict[str, ClassifierSpec] = {
    "lstm": ClassifierSpec(dim=D, num_classes=C, num_units=6, num_layers=2, dropout=0.3, input_dropout=0.2),
    "frame": ClassifierSpec(model="frame", dim=D, num_classes=C, num_hidden_units=5, dropout=0.3, input_dropout=0.2),
}


@dataclass(frozen=True)
class MadeBatches:
    x_SGTBD: Tensor
    labels_SGB: Tensor

    def __len__(self) -> int:
        return len(self.x_SGTBD)

    def step(self, number: int) -> tuple[Tensor, Tensor]:
        return self.x_SGTBD[number], self.labels_SGB[number]


def made_batches() -> MadeBatches:
    generator = torch.Generator().manual_seed(3)
    x_SGTBD = torch.randn(S, G, T, B, D, generator=generator)
    return MadeBatches(x_SGTBD, torch.randint(0, C, (S, G, B), generator=generator))


def made_classifier(kind: str, groups: list[int]) -> Classifier:
    config = replace(KINDS[kind], num_members=len(groups))
    classifier = build_classifier(config)
    seed_weights(classifier, [derived_seed("weights", group) for group in groups])
    seed_dropout(classifier, [derived_seed("dropout", group) for group in groups])
    return classifier


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [
        EnsembleTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=0.01, max_grad_norm=0.1, num_warmup_steps=2),
            output_learning_rate=0.02,
            output_weight_decay=0.1,
        ),
        EnsembleTrainingConfig(
            optimizer=OptimizerConfig(kind="published", learning_rate=0.01, velocity_clamp=0.05, num_warmup_steps=0)
        ),
    ],
    ids=["adamw", "published"],
)
def test_a_group_takes_the_steps_that_it_takes_alone(kind: str, config: EnsembleTrainingConfig) -> None:
    batches = made_batches()
    together = made_classifier(kind, list(range(G)))
    losses_SG = train_ensemble(together, batches, config)
    for group in range(G):
        alone = made_classifier(kind, [group])
        before = {name: parameter.clone() for name, parameter in alone.named_parameters()}
        one = MadeBatches(batches.x_SGTBD[:, [group]], batches.labels_SGB[:, [group]])
        np.testing.assert_allclose(train_ensemble(alone, one, config)[:, 0], losses_SG[:, group], rtol=1e-5)
        grouped = dict(together.named_parameters())
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(grouped[name][[group]], parameter, rtol=1e-4, atol=1e-6)
            assert not torch.equal(parameter, before[name]), name


def test_dropout_drops_each_group_by_its_own_stream() -> None:
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    dropout = MemberDropout(0.25, streams)
    x = torch.ones(2, 50, 40, 10)
    dropped = dropout(x)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float((dropped == 0).float().mean()) - 0.25) < 0.01
    assert not torch.equal(dropped[0], dropped[1])
    alone = MemberDropout(0.25, [torch.Generator().manual_seed(2)])
    assert torch.equal(alone(x[:1])[0], dropped[1])
    assert torch.equal(dropout.eval()(x), x)


def test_bfloat16_trains_much_as_float32() -> None:
    losses = []
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    for precision in precisions:
        classifier = made_classifier("lstm", [0, 1, 2])
        losses.append(train_ensemble(classifier, made_batches(), EnsembleTrainingConfig(precision=precision)))
        assert all(parameter.dtype == torch.float32 for parameter in classifier.parameters())
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)
    assert not np.array_equal(losses[0], losses[1])


def test_divergence_is_named() -> None:
    batches = made_batches()
    batches.x_SGTBD[4, 1] = torch.inf
    with pytest.raises(TrainingDiverged, match=r"step 4: group 1 has loss .* gradient norm"):
        train_ensemble(made_classifier("frame", [0, 1, 2]), batches, EnsembleTrainingConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"output_learning_rate": 0.0}, "output_learning_rate is 0"),
        ({"output_weight_decay": -1.0}, "output_weight_decay is -1"),
        ({"optimizer": OptimizerConfig(kind="published"), "output_learning_rate": 1e-3}, "use kind=adamw"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnsembleTrainingConfig(**changes)


def test_steps_follow_epochs_where_those_are_more() -> None:
    config = EnsembleTrainingConfig(num_steps=50, num_epochs=30, batch_clips=40)
    assert [config.steps(num_clips) for num_clips in (8, 40, 80)] == [50, 50, 60]


def made_trained(kind: str) -> TrainedClassifiers:
    rng = np.random.default_rng(0)
    standardise = Standardisation(rng.random(D).astype(np.float32), 1 + rng.random(D).astype(np.float32))
    return TrainedClassifiers(
        made_classifier(kind, [0, 1, 2]).eval(),
        standardise,
        class_names=("jump", "run", "swim"),
        arm="a name",
        num_frames=T,
        labels_per_class=2,
        split=0,
        samplings=(4, 5, 6),
        clips=(("a", "b"), ("c", "d"), ("a", "d")),
        search_clips=("a", "e"),
        groups=("g",),
        losses_SG=rng.random((S, G)).astype(np.float32),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_back_what_was_saved(tmp_path: Path, kind: str) -> None:
    trained, uri = made_trained(kind), str(tmp_path / "some.safetensors")
    trained.save(uri)
    found = TrainedClassifiers.load(uri)
    x_TND = torch.randn(T, 8, D)
    assert torch.equal(found.probabilities(x_TND), trained.probabilities(x_TND))
    torch.testing.assert_close(found.probabilities(x_TND).sum(-1), torch.ones(G, 8))
    found.save(str(tmp_path / "again.safetensors"))
    assert read_bytes(str(tmp_path / "again.safetensors")) == read_bytes(uri)
    single = found.select(1)
    assert (single.samplings, single.clips) == ((5,), (("c", "d"),))
    torch.testing.assert_close(single.probabilities(x_TND)[0], trained.probabilities(x_TND)[1])


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "some.safetensors")
    made_trained("frame").save(uri)
    whole = read_bytes(uri)
    write_bytes(uri, whole[:-10])
    with pytest.raises(CorruptArtifact):
        TrainedClassifiers.load(uri)
    write_bytes(uri, whole.replace(b"consulted", b"konsulted"))
    with pytest.raises(CorruptArtifact, match="lacks 'consulted': another version"):
        TrainedClassifiers.load(uri)
    write_bytes(uri, whole.replace(b"TrainedClassifiers", b"trainedClassifiers"))
    with pytest.raises(SourceError, match="holds a model of kind trainedClassifiers, not classifier"):
        TrainedClassifiers.load(uri)
