"""Recipe classify: the actions of videos of your own, by a finetuned classifier.

(unpack ─) ingest ─ extract ─ classify
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.core.errors import ConfigError
from pipeline.engine.plan import Plan
from pipeline.recipes.existing_models import ModelReadingOptions, add_classifier, percepts_of_model
from pipeline.recipes.recipe import Recipe
from pipeline.recipes.video_checks import WindowCheck
from pipeline.recipes.video_inputs import add_index, lists_first
from stages.classify import ClassifyConfig, classify
from stages.extract import extract
from stages.percepts.schema import Extractor


@dataclass(frozen=True, kw_only=True)
class ClassifyRunOptions(ModelReadingOptions):
    """The actions of videos of your own, by a finetuned classifier, as Parquet: a row a video, or a row a window."""

    classifier: str
    """Finetuned classifier: a key of the store (finetune-...), a model of MLflow (models:/...), or a path or URL. It
    says which convnet makes its percepts, and how videos are decoded."""
    videos: tuple[str, ...]
    """Videos to classify: folders, archives (.zip, .tar*, .rar), globs, files, lists (.txt, .csv, .tsv, .jsonl, .json,
    .parquet) and bucket URLs. Labels, where a list has some, are compared with what is found."""
    classify: ClassifyConfig = ClassifyConfig()


def build(options: ClassifyRunOptions) -> Plan:
    """Builds the plan.

    Raises:
        ConfigError: the model is no classifier that says what it learned from.
        ConfigError, SourceError, CorruptArtifact, StoreError, UsageError: as `add_classifier`.
        ConfigError, DigestError: as `percepts_of_model`.
    """
    plan = Plan("classify")
    classifier, header = add_classifier(plan, options.classifier, store_uri=options.store)
    if "extractor" not in header or len(header["samplings"]) != 1:
        raise ConfigError(
            f"--classifier {options.classifier} is no single classifier that says what made its percepts: give the "
            "artifact of a finetune stage, or its model.safetensors"
        )
    config = percepts_of_model(Extractor(**header["extractor"]), options.classifier, flag="classifier", options=options)
    check = WindowCheck(num_frames=1, rate_fps=None)  # the last frame of a short video is repeated
    index = add_index(plan, replace(options, limits=config.limits), lists_first(options.videos), check=check)
    percepts = plan.add(extract, config, resources=options.on_devices, index=index)
    named = replace(options.classify, classifier="" if classifier is not None else options.classifier)
    plan.add(classify, named, resources=options.on_devices, percepts=percepts, classifiers=classifier)
    return plan


CLASSIFY = Recipe(
    name="classify",
    options=ClassifyRunOptions,
    build=build,
    shown={
        "videos": ("videos", "limits.max-duration-s"),
        "actions": ("classifier", "classify.per", "weights"),
    },
    examples=(
        "percepts run classify --classifier finetune-0123456789abcdef --videos clips/",
        "percepts run classify --classifier finetune-0123456789abcdef --videos clips/ --classify.per window",
    ),
    refused={
        "classify.classifier": "--classifier decides it",
        **dict.fromkeys(("register", "if-better"), "this recipe trains no encoder"),
    },
)
