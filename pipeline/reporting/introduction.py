"""The lines at the top of a report: what a percept is, what the task is, the model, and the videos of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

from pipeline.core.printable import human_bytes, human_seconds
from pipeline.reporting.claims import listed_words
from pipeline.reporting.results import Results, count_name
from pipeline.reporting.svg import number
from pipeline.reporting.view import NodeView
from stages.evaluation.score_table import ScoreTable
from stages.models.artifacts import Encoder, passes_text
from stages.models.config import CompositeConfig, model_names


@dataclass(frozen=True)
class Line:
    """A line of the introduction: its subject and a sentence."""

    subject: str
    sentence: str


def introduction(results: Results) -> tuple[Line, ...]:
    """Returns at most four lines on what was run; a line is missing if the run has nothing for it."""
    lines = [
        Line("Percepts", " ".join(_percept(node) for node in results.extractions)),
        Line("Task", " ".join(_tasks(results))),
        Line("Models", " ".join(_models(results))),
        Line("Videos", _videos(results)),
    ]
    return tuple(line for line in lines if line.sentence)


def percept_sentences(node: NodeView) -> list[str]:
    """Returns sentences on an extraction: how many percepts, how large, how fast and what limited it."""
    facts = node.facts
    sentences = []
    if "num_frames" in facts and "num_bytes" in facts:
        each = f", {_integer(facts['bytes_per_frame'])} bytes a frame" if "bytes_per_frame" in facts else ""
        dim = f" of {_integer(facts['dim'])} numbers" if "dim" in facts else ""
        sentences.append(
            f"{_integer(facts['num_frames'])} frames became percepts{dim}, {_bytes(facts['num_bytes'])} in all{each}."
        )
    if facts.get("num_frames_extracted") and "frames_per_s" in facts:
        where = _count(facts.get("num_workers"), "worker")
        gpus = _count(facts.get("num_gpus"), "GPU") if facts.get("num_gpus") else ""
        cores = _count(facts.get("num_decoders"), "decoding core")
        machines = listed_words([part for part in (where, gpus, cores) if part] or ["one process"], "and")
        engine = f", with {facts['engine']}" if "engine" in facts else ""
        sentences.append(
            f"{_integer(facts['num_frames_extracted'])} of them were extracted in that run, "
            f"{_integer(facts['frames_per_s'])} a second, by {machines}{engine}."
        )
    elif facts.get("num_frames_extracted") == 0:
        sentences.append("All of them were in the store already.")
    if facts.get("bottleneck"):
        sentences.append(f"Where the time went: {facts['bottleneck']}.")
    return sentences


def _percept(node: NodeView) -> str:
    convnet, decode = node.config.get("convnet"), node.config.get("decode")
    if not isinstance(convnet, dict) or not isinstance(decode, dict):
        return ""
    dim = f": {_integer(node.facts['dim'])} numbers" if "dim" in node.facts else ""
    is_flow = decode.get("flow", "none") != "none"
    what = "of the optical flow around a frame" if is_flow else "of one frame"
    return f"A percept is the activations {what} in layer {convnet.get('layer')} of {convnet.get('name')}{dim}."


def _tasks(results: Results) -> list[str]:
    tasks = [
        *(_classification(scores.content) for scores in results.scores),
        *(
            f"Predict the percepts of the next {len(forecast.content.frames_ahead)} frames."
            for forecast in results.forecasts
        ),
        *(
            f"Predict frames of pixels, {pixels.content.protocol}, in {pixels.content.unit}."
            for pixels in results.pixel_scores
        ),
    ]
    return list(dict.fromkeys(tasks))


def _classification(scores: ScoreTable) -> str:
    counts = listed_words([count_name(n) for n in scores.label_counts], "and")
    clips = f"{len(scores.class_names):,} classes in {scores.num_test_clips:,} test clips"
    return f"Recognise {clips}, from {counts} labelled clips a class."


def _models(results: Results) -> list[str]:
    encoders = {node.name: node for node in results.view.nodes if isinstance(node.artifact, Encoder)}
    before = {parent for node in encoders.values() for parent in node.parents if parent in encoders}
    seeds_of: dict[tuple[CompositeConfig, str, int], list[Any]] = {}
    nodes = [node for name, node in encoders.items() if name not in before]
    for node in nodes:
        flat = {**node.config, **_mapping(node.config.get("model")), **_mapping(node.config.get("training"))}
        if "num_steps" not in flat or "batch_size" not in flat:
            continue
        known = {field.name for field in fields(CompositeConfig)}
        model = CompositeConfig(**{name: value for name, value in flat.items() if name in known})
        size = (
            f"{_count(model.num_layers, 'layer')} of {_count(model.num_units, 'unit')}, "
            f"{model.num_frames_in} frames in, {model.num_frames_out} ahead, "
            f"{_training(node, flat)}" + "".join(f", from {encoders[p].key} on" for p in node.parents if p in before)
        )
        # Models alike but for their seeds are one model; two of one seed differ by something else, such as percepts.
        seed = flat.get("seed")
        place = next(place for place in count() if seed not in seeds_of.get((model, size, place), []))
        seeds_of.setdefault((model, size, place), []).append(seed)
    models, sizes = [model for model, _, _ in seeds_of], [size for _, size, _ in seeds_of]
    names = [
        name if len(seeds) == 1 else f"{name} from {len(seeds)} seeds"
        for name, seeds in zip(model_names(models), seeds_of.values(), strict=True)
    ]
    of_size: dict[str, list[str]] = {}
    for name, size in zip(names, sizes, strict=True):
        of_size.setdefault(size, []).append(name)
    sentences = [f"{listed_words(alike, 'and')}: {size}." for size, alike in of_size.items()]
    return [f"LSTM encoder-decoder, {sentences[0]}"] if len(sentences) == 1 else sentences


def _training(node: NodeView, flat: Mapping[str, Any]) -> str:
    """Returns the length of a training: steps, batch, and how often it saw each sequence."""
    facts = node.facts
    num_steps = facts.get("num_steps", flat["num_steps"])
    length = _count(num_steps, "step") if num_steps is not None else _count(flat["num_passes"], "pass", "passes")
    batch = f"{length} of {_count(flat['batch_size'], 'sequence')}"
    if "num_sequences" not in facts or "num_sequences_seen" not in facts:
        return batch
    return f"{batch}: {passes_text(float(facts['num_sequences_seen']), float(facts['num_sequences']))}"


def _videos(results: Results) -> str:
    videos = results.videos
    if not videos.num_videos:
        return ""
    seconds, parts = videos.duration_us / 1e6, videos.parts
    split = f": {listed_words([f'{count:,} {part}' for part, count in parts.items()], 'and')}" if parts else ""
    length = f", {human_seconds(seconds)}" if seconds else ""
    return f"{_count(videos.num_videos, 'video')}{length}{split}."


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: float | str) -> str:
    return f"{float(value):,.0f}"


def _bytes(value: float | str) -> str:
    return human_bytes(float(value))


def _count(value: float | str | None, noun: str, plural: str = "") -> str:
    if value is None:
        return ""
    figure = number(float(value))
    return f"{figure} {noun if figure == '1' else plural or f'{noun}s'}"
