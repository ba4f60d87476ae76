"""classify: the action of every video, or of every window of every video, by a finetuned classifier.

    actions = classify(ClassifyConfig(), context, percepts=percepts, classifiers=classifiers)
    frame = actions.table().to_pandas()

The answers are those of `percepts classify` for single videos. Parts are written one after the other, and a run that
was interrupted goes on with those that are missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import ConfigError
from pipeline.core.files import join, read_bytes, sha256_file, write_bytes
from pipeline.core.parquet import iter_tables
from pipeline.core.stage import Context, stage
from stages.extraction.config import check_alike
from stages.finetuning.artifacts import Classifiers
from stages.models.config import MODEL_FILE
from stages.models.header import find_model
from stages.percepts.artifacts import Percepts
from stages.serving.artifacts import Actions
from stages.serving.parts import Per, cut_parts, write_parts

NUM_NAMED = 3
"""The number of actions that the facts of an artifact name."""


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """The classifier, and the rows of a table of actions."""

    classifier: str = ""
    """A finetune artifact of elsewhere or its model.safetensors (path or fsspec URL), or `models:/NAME@ALIAS`. Empty:
    the artifact that is connected."""
    per: Per = "video"
    """Unit of a row: each video, the mean over its windows, or each window, every eight frames."""


def _file(config: ClassifyConfig) -> str:
    return find_model(config.classifier, "classifier")[0]


def _digest(config: ClassifyConfig) -> str | None:
    """Returns the sha256 of the model's bytes, as an alias may point elsewhere tomorrow.

    A file that was cut short is refused here, before a frame is decoded.
    """
    if not config.classifier:
        return None
    from stages.finetuning.trained_classifiers import TrainedClassifiers

    uri = _file(config)
    TrainedClassifiers.load(uri)
    return sha256_file(uri)


@stage(version=2, snapshot=_digest)
def classify(
    config: ClassifyConfig, context: Context, *, percepts: Percepts, classifiers: Classifiers | None = None
) -> Actions:
    """Writes the actions, and counts how many new videos with a label are named as it.

    Raises:
        ConfigError: no classifier or two; it learned from percepts of another extractor, or is one of several.
        SourceError: a video was taken down meanwhile.
        SourceError, CorruptArtifact, UsageError: see `stages.finetuning.trained_classifiers.TrainedClassifiers.load`.
    """
    from stages.finetuning.trained_classifiers import TrainedClassifiers
    from stages.percepts.windows import Windows
    from stages.serving.classification import Classification
    from stages.serving.video_classifier import STRIDE_FRAMES, check_single

    if (classifiers is None) == (not config.classifier):
        raise ConfigError("classify needs one classifier: connect a finetune stage, or name one in its config")
    if classifiers is None:  # workers on other nodes read it here
        model_uri = join(context.uri, MODEL_FILE)
        write_bytes(model_uri, read_bytes(_file(config)))
    else:
        model_uri = classifiers.path(MODEL_FILE)
    trained = TrainedClassifiers.load(model_uri)
    check_alike(check_single(trained), percepts.extractor(), "classifier")
    windows = Windows(percepts.open(), length=trained.num_frames, stride=STRIDE_FRAMES)
    actions = Actions(context.uri, context.key)
    parts = cut_parts(
        actions.directory,
        windows.store.videos,
        np.maximum(1, windows.num_per_video),  # of a video that is too short, the last frame is repeated
        per=config.per,
        row_bytes=4 * len(trained.class_names),
    )
    work = Classification(
        model_uri=model_uri,
        percepts=percepts,
        per=config.per,
        device="cuda" if context.resources.gpus_per_worker else "cpu",
    )
    num_bytes = write_parts(work, parts, actions.directory, context, videos=windows.store.videos)
    context.record(num_videos=len(windows.store.videos), num_bytes=num_bytes, classes=", ".join(trained.class_names))
    seen = {video for sampling in trained.clips for video in sampling} | set(trained.search_clips)
    _record_actions(config, actions, seen, context)
    return actions


def _record_actions(config: ClassifyConfig, actions: Actions, seen: Collection[str], context: Context) -> None:
    """Adds how often each action is named and, with a row a video, how many labels are named, to the facts.

    seen: sha256 of the videos that the classifier has learned from or was chosen by, whose labels prove nothing.
    """
    named: Counter[str] = Counter()
    num_labelled = num_right = 0
    for uri in actions.files():
        for table in iter_tables(read_bytes(uri), columns=("video", "label", "action")):
            names = table["action"].to_pylist()
            named.update(names)
            for video, label, action in zip(table["video"].to_pylist(), table["label"].to_pylist(), names, strict=True):
                if label is not None and video not in seen:
                    num_labelled += 1
                    num_right += action == label
    said = ", ".join(f"{action} ({number:,})" for action, number in named.most_common(NUM_NAMED))
    more = f" and {len(named) - NUM_NAMED} other actions" if len(named) > NUM_NAMED else ""
    context.record(num_rows=named.total(), most_frequent=said + more)
    if config.per == "video" and num_labelled:
        context.record(num_videos_labelled=num_labelled, num_videos_right=num_right)
