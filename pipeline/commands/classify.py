"""Which action a video shows, and when.

    python -m pipeline.commands.classify clip.mp4 .percepts/finetune/finetune-<key>
    python -m pipeline.commands.classify https://example.org/clip.mp4 models:/m-<id> --out here --json

Prints the actions with their probabilities and a line over time for each of the best, and writes the same as
`timeline.png` and `answer.json`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from pipeline.commands.command_line import run_command
from pipeline.core.errors import ConfigError
from pipeline.core.files import join, write_bytes, write_json
from pipeline.core.model_uris import resolve
from stages.extraction.single_video import opened_video
from stages.figures.action_timeline import timeline_lines, timeline_picture
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.models.weights import MODEL_FILE
from stages.serving.video_classifier import NUM_TOP, VideoAnswer, VideoClassifier


@dataclass(frozen=True, kw_only=True)
class Options:
    """Classify a video by a finetuned classifier."""

    video: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """A video file or fsspec URL."""
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """The classifier: a finetune artifact (directory or model.safetensors), or an MLflow model (models:/, runs:/)."""
    out: str | None = None
    """Directory, or fsspec URL, for timeline.png and answer.json; none: nothing is written."""
    top: int = NUM_TOP
    """Actions to name."""
    json: bool = False
    """Print the answer as JSON."""
    weights: str | None = None
    """URI of the convnet's weights, where they are those of no package."""
    plugin: str | None = None
    """Python module that registers the convnet, where it is one of yours."""

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"--top is {self.top}; give at least 1")


def classify(options: Options) -> VideoAnswer:
    """The answer; writes it where `options.out` says.

    Raises:
        UsageError: no such video or model, or the convnet of the training cannot be built here.
    """
    if options.plugin is not None:
        try:
            importlib.import_module(options.plugin)
        except ImportError as error:
            raise ConfigError(
                f"--plugin {options.plugin!r} cannot be imported: {error}; put it on PYTHONPATH"
            ) from error
    uri = resolve(options.model)
    trained = TrainedClassifiers.load(uri if uri.endswith(".safetensors") else join(uri, MODEL_FILE))
    classifier = VideoClassifier(trained, weights=options.weights)
    with opened_video(options.video) as path:
        answer = classifier(path)
    if options.out is not None:
        write_bytes(join(options.out, "timeline.png"), timeline_picture(answer))
        write_json(join(options.out, "answer.json"), {"video": options.video, **answer.to_json(options.top)})
    return answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = tyro.cli(Options, args=arguments, prog="python -m pipeline.commands.classify")
    answer = classify(options)
    if options.json:
        found = {"video": options.video, **answer.to_json(options.top)}
        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
        return 0
    shown = min(options.top, len(answer.class_names))
    lines = [f"{answer.action}  {answer.probability:.1%}", "", *timeline_lines(answer, num_top=shown)]
    if options.out is not None:
        lines += ["", join(options.out, "timeline.png")]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    run_command(main)
