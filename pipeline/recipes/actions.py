"""Recipe actions: an action classifier of labels of your own, from few labelled videos and any number of others.

(unpack ─) ingest ─ extract ─ standardize ─ pretrain ─┬─ forecast, visualize
                       └── finetune (3 arms) ─────────┴─ evaluate

With an encoder that is there, nothing is pretrained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from pipeline.core.errors import ConfigError
from pipeline.engine.plan import Node, Plan
from pipeline.recipes.agreement import check_alike, check_enough, check_loss
from pipeline.recipes.existing_models import ModelReadingOptions, add_encoder, extractor_of_encoder, percepts_of_model
from pipeline.recipes.model_variants import OF_CORPORA, PASSES_OVER_A_CORPUS, encoder_suffix, of_encoder
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_checks import LabelCheck, WindowCheck
from pipeline.recipes.video_inputs import ONE_LIMITS, add_unpacked, lists_first, within_limits
from stages.datasets.labelled import ALL_CLIPS
from stages.evaluate import EvaluateConfig, evaluate
from stages.extract import ExtractConfig, extract
from stages.figures.config import VisualizeConfig
from stages.finetune import FinetuneConfig, finetune
from stages.finetuning.arm import EnsembleTrainingConfig
from stages.forecast import ForecastConfig, forecast
from stages.ingest import IngestConfig, ingest
from stages.models.config import ClassifierConfig
from stages.pretrain import PretrainConfig, pretrain
from stages.pretraining.config import OptimizerConfig
from stages.standardize import StandardizeConfig, standardize
from stages.visualize import visualize

LEARNED: Final = ("unlabelled", "train")
"""The parts that statistics and pretraining are of: everything but the videos to test on."""
OF_CLASSIFIERS: Final = FinetuneConfig(
    arm="LSTM from scratch",
    classifier=ClassifierConfig(forget_bias=1.0, dropout=0.5, input_dropout=0.3),
    training=EnsembleTrainingConfig(
        optimizer=OptimizerConfig(learning_rate=1e-3, num_warmup_steps=0),
        output_learning_rate=1e-2,
        num_steps=60,
        num_epochs=20,
    ),
    zero_output=True,
    num_full_samplings=5,
    allow_fewer=True,
)
"""Training of the LSTM classifiers: what few labels did best with in `demo` (tests/RESULTS.md)."""


@dataclass(frozen=True, kw_only=True)
class ActionsOptions(ModelReadingOptions):
    """A classifier of your own labels, from few labelled videos and any number of unlabelled ones."""

    videos: tuple[str, ...]
    """Videos, labelled or not: lists with the columns uri,label (.csv, .tsv, .jsonl, .json, .parquet), folders,
    archives (.zip, .tar*, .rar), globs, files and bucket URLs."""
    folder_labels: bool = False
    """Take the name of a video's folder for its label, where no list gives one, as in clips/walking/a.mp4."""
    held_out: float = 0.25
    """Share of each label's videos to test on, in whole groups. Videos whose list names a part keep it: train, test or
    unlabelled."""
    labels_per_class: tuple[int, ...] = (ALL_CLIPS,)
    """Numbers of labelled videos a class to learn from, a column of the table each; 0 is all that there are."""
    encoder: str | None = None
    """Start from this encoder instead of pretraining one: a key of the store (pretrain-...), models:/NAME@ALIAS, or a
    path or URL. It says which convnet makes its percepts, and how videos are decoded."""
    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = replace(PASSES_OVER_A_CORPUS, parts=LEARNED)
    num_encoders: int = 1
    """The encoder is pretrained so many times, from seeds that follow each other, and the LSTM that starts from one is
    measured with all of them: differences then hold for pretraining and not for one encoder."""
    single_frame: FinetuneConfig = replace(
        OF_CLASSIFIERS,
        arm="single frame",
        classifier=ClassifierConfig(model="frame"),
        training=EnsembleTrainingConfig(
            optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, num_warmup_steps=0),
            num_steps=40,
            num_epochs=20,
        ),
        zero_output=False,
    )
    """Training of the single-frame classifiers."""
    scratch: FinetuneConfig = OF_CLASSIFIERS
    """Training of the LSTM classifiers that start from random weights. They have the encoder's units and layers."""
    finetuned: FinetuneConfig = replace(
        OF_CLASSIFIERS,
        arm="LSTM pretrained",
        training=replace(
            OF_CLASSIFIERS.training, optimizer=replace(OF_CLASSIFIERS.training.optimizer, learning_rate=3e-4)
        ),
    )
    """Training of the LSTM classifiers that start from the encoder, whose units and layers they have."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it is a share of each label's videos: give 0 < share < 1")
        if self.num_encoders < 1:
            raise ConfigError(f"num_encoders is {self.num_encoders}; give at least 1")
        if not self.labels_per_class or min(self.labels_per_class) < 0:
            raise ConfigError(f"labels_per_class is {self.labels_per_class}; give numbers, 0 for all labels")


def build(options: ActionsOptions) -> Plan:
    """Builds the plan.

    Raises:
        ConfigError: options do not fit together, or the encoder does not read percepts.
        DigestError: the convnet here is another than the one that made what the encoder learned from.
        ConfigError, SourceError, CorruptArtifact, StoreError, UsageError: as `add_encoder`.
    """
    plan = Plan("actions")
    encoder: Node | None = None
    header: dict[str, Any] = {}
    extraction = within_limits(options.extract, options.limits)
    if options.encoder is not None:
        encoder, header = add_encoder(plan, options.encoder, flag="encoder", name="encoder", store_uri=options.store)
        extraction = percepts_of_model(extractor_of_encoder(header), options.encoder, flag="encoder", options=options)
    else:
        check_loss(options.pretrain)
    arms = _arms(options, header)
    check_alike(arms)
    if len({arm.selection.is_on for arm in arms.values()}) > 1:
        choosing = " and ".join(f"--{flag}.selection" for flag, arm in arms.items() if arm.selection.is_on)
        raise ConfigError(
            f"{choosing} chooses settings and other arms choose none, so that they would learn from other videos: give "
            f"{', '.join(f'--{flag}' for flag in arms)} something to select each, or none"
        )
    percepts = _percepts(plan, options, extraction, arms)
    statistics = plan.add(standardize, StandardizeConfig(parts=LEARNED), percepts=percepts)
    devices = options.on_devices
    encoders = [encoder] if encoder is not None else []
    for number in range(0 if encoders else options.num_encoders):
        config, name = of_encoder(options.pretrain, number), f"pretrain{encoder_suffix(number)}"
        encoders.append(
            plan.add(pretrain, config, name=name, resources=options.to_train, percepts=percepts, statistics=statistics)
        )
    if options.encoder is None:
        scored = encoders[:1]
        plan.add(
            forecast, ForecastConfig(), resources=devices, encoders=scored, percepts=percepts, statistics=statistics
        )
    plan.add(visualize, VisualizeConfig(fit_part=None, show_part=None), encoder=encoders[0], percepts=percepts)
    classifiers = [
        plan.add(
            finetune,
            arm,
            name=f"finetune {arm.arm}{encoder_suffix(number)}",
            resources=devices,
            encoder=start,
            percepts=percepts,
            statistics=statistics,
        )
        for flag, arm in arms.items()
        for number, start in enumerate(encoders if flag == "finetuned" else [None])
    ]
    plan.add(evaluate, EvaluateConfig(), resources=devices, classifiers=classifiers, percepts=percepts)
    return plan


def _arms(options: ActionsOptions, header: dict[str, Any]) -> dict[str, FinetuneConfig]:
    """Returns the arms by their flags, in the order of comparison; LSTMs have the size of the encoder."""
    model = options.pretrain.model
    num_units, num_layers = model.num_units, model.num_layers
    if header:
        num_units, num_layers = int(header["config"]["num_units"]), int(header["config"]["num_layers"])
    arms = {"single-frame": options.single_frame, "scratch": options.scratch, "finetuned": options.finetuned}
    for flag, arm in arms.items():
        arm = replace(arm, labels_per_class=options.labels_per_class)
        if flag != "single-frame":
            arm = replace(arm, classifier=replace(arm.classifier, num_units=num_units, num_layers=num_layers))
        arms[flag] = arm
    return arms


def _percepts(plan: Plan, options: ActionsOptions, extraction: ExtractConfig, arms: dict[str, FinetuneConfig]) -> Node:
    """Adds the index of the videos, their labels and parts, and the percepts."""
    unpacked, others = add_unpacked(plan, options.videos, options.archive_limits)
    config = IngestConfig(
        videos=lists_first(others),
        held_out_labelled=options.held_out,
        folder_labels=options.folder_labels,
        limits=extraction.limits,
        list_rules=options.list_rules,
    )
    index = plan.add(ingest, config, resources=options.on_cpus, unpacked=unpacked)
    to_pretrain = WindowCheck.to_pretrain([options.pretrain.model], options.pretrain, extraction)
    check = LabelCheck(
        clips=WindowCheck.to_classify(arms.values(), extraction),
        windows=to_pretrain if options.encoder is None else None,
        labels_per_class=options.labels_per_class,
        learned=("train", "validation") if options.scratch.selection.is_on else ("train",),
    )
    index = plan.replaced(index, check=check)
    check_enough(index, has_test=True)
    return plan.add(extract, extraction, resources=options.on_devices, index=index)


_DECIDED: Final = {
    "splits": "the videos have one split",
    "part": "it is train",
    "arrow": "this recipe has no reversed clips",
    "labels-per-class": "--labels-per-class decides it",
    "allow-fewer": "a class with fewer videos gives all that it has",
}

ACTIONS = Recipe(
    name="actions",
    options=ActionsOptions,
    build=build,
    shown={
        "videos and labels": ("videos", "folder-labels", "held-out", "labels-per-class"),
        "percepts": ("extract.convnet.name", "extract.decode.rate-fps"),
        "what is learned": ("encoder", "pretrain.num-units", "pretrain.num-passes", "finetuned.learning-rate"),
    },
    examples=(
        "percepts run actions --videos labels.csv more/ --preset laptop",
        "percepts run actions --videos clips/ --folder-labels --encoder models:/walks@best",
    ),
    presets=OF_CORPORA,
    refused=ONE_LIMITS
    | {f"{arm}.{name}": why for arm in ("single-frame", "scratch", "finetuned") for name, why in _DECIDED.items()}
    | {
        f"{arm}.{name}": "the encoder decides it"
        for arm in ("scratch", "finetuned")
        for name in ("num-units", "num-layers")
    }
    | {
        f"{arm}.model": f"its row is that of the {model} model"
        for arm, model in (("single-frame", "frame"), ("scratch", "lstm"), ("finetuned", "lstm"))
    },
    only_with=dict.fromkeys(("weights", "plugin"), "encoder"),
    not_with=dict.fromkeys(("pretrain.", "extract.", "num-encoders"), ("encoder",)),
)
