"""Names the actions that a video shows, and when.

    percepts classify .percepts/finetune/finetune-<key> clip.mp4
    percepts classify models:/m-<id> https://example.org/clip.mp4 --out here --json

Prints the actions with their probabilities and a line over time for each of the best, and writes the same as
`timeline.png` and `answer.json`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pipeline.core.addresses.model_uris import HOME_STORE
from pipeline.core.errors import ConfigError
from pipeline.core.files import join, write_bytes, write_json
from pipeline.core.printable import printable, printable_json
from pipeline.core.secrets import public
from pipeline.options.command_line import parse_options
from pipeline.options.flags import Word
from stages.convnets.registry import import_plugin
from stages.models.header import find_model
from stages.serving.video_answer import NUM_TOP, VideoAnswer


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """Classify a video by a finetuned classifier."""

    model: Annotated[str, Word("MODEL")]
    """The classifier: a finetune artifact (directory or model.safetensors), or an MLflow model (models:/, runs:/)."""
    video: Annotated[str, Word("VIDEO")]
    """A video file or fsspec URL."""
    out: str | None = None
    """Directory or fsspec URL for timeline.png and answer.json; default: nothing is written."""
    top: int = NUM_TOP
    """The number of actions to name."""
    json: bool = False
    """Print the answer as JSON."""
    weights: str | None = None
    """URI of the convnet's weights, where they are those of no package."""
    store: str = HOME_STORE
    """Directory of the store whose MLflow has a model that is named models:/...; MLFLOW_TRACKING_URI goes before it."""
    plugin: str | None = None
    """Python module that registers the convnet, where it is one of yours."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"--top is {self.top}; give at least 1")


def classify(options: ClassifyOptions) -> VideoAnswer:
    """Returns the answer, and writes it where `options.out` says.

    Raises:
        UsageError: no such video or model, or the convnet of the training cannot be built here.
    """
    if options.plugin is not None:
        import_plugin(options.plugin)
    uri, _ = find_model(options.model, "classifier", options.store)
    from stages.extraction.single_video import opened_video  # torch, which these import, takes seconds
    from stages.figures.action_timeline import timeline_picture
    from stages.finetuning.trained_classifiers import TrainedClassifiers
    from stages.serving.video_classifier import VideoClassifier

    trained = TrainedClassifiers.load(uri)
    classifier = VideoClassifier(trained, weights=options.weights)
    with opened_video(options.video) as path:
        answer = classifier(path)
    if options.out is not None:
        write_bytes(join(options.out, "timeline.png"), timeline_picture(answer))
        write_json(join(options.out, "answer.json"), {"video": public(options.video), **answer.to_json(options.top)})
    return answer


def main(arguments: Sequence[str]) -> int:
    """Runs `percepts classify`. Returns the exit status."""
    options = parse_options(ClassifyOptions, arguments, prog="percepts classify")
    answer = classify(options)
    if options.json:
        answer_json = {"video": public(options.video), **answer.to_json(options.top)}
        sys.stdout.write(printable_json(answer_json) + "\n")
        return 0
    from stages.figures.action_timeline import timeline_lines

    shown = min(options.top, len(answer.class_names))
    lines = [f"{answer.action}  {answer.probability:.1%}", "", *timeline_lines(answer, num_top=shown)]
    if options.out is not None:
        lines += ["", *(join(options.out, name) for name in ("timeline.png", "answer.json"))]
    sys.stdout.write("\n".join(map(printable, lines)) + "\n")
    return 0
