"""Findings on predicted percepts: whether a model beats copying and, where it does not, why and what to try."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pipeline.core.printable import count_of
from pipeline.reporting.claims import Finding, Verdict, listed_words, sentence, together
from pipeline.reporting.results import NodeResult, Results
from pipeline.reporting.svg import number, percent
from pipeline.reporting.view import NodeView
from stages.evaluation.artifacts import BASELINES, COPY_LAST, ErrorRatio, ForecastErrors
from stages.models.artifacts import Encoder, TrainingHistory
from stages.pretraining.config import FEW_VIDEOS

ENOUGH_PASSES: Final = 3.0
"""Fewer passes over the training sequences than this are named as a reason."""
STILL_FALLING: Final = 0.02
"""Relative fall of the validation loss between its last two measurements that counts as not yet converged."""


def forecast_findings(results: Results, result: NodeResult[ForecastErrors]) -> list[Finding]:
    """Compares every model with the baselines; a model that does not beat them comes with reasons and options.

    Of models that begin as a linear forecast it is said what training added to that, whether they beat them or not.
    """
    forecast = result.content
    baselines = [(name, forecast.means[name]) for name in BASELINES if name in forecast.means]
    models = [(name, mean) for name, mean in forecast.means.items() if name not in BASELINES]
    findings = [_compared(forecast, name, mean, baselines) for name, mean in models if baselines]
    if any(mean >= error for _, mean in models for _, error in baselines):
        findings += _advice(results, result.node)
    else:
        findings += [Finding("note", sentence(f"{added}.")) for added in _of_linear_parts(results, result.node)]
    return findings


def _compared(forecast: ForecastErrors, name: str, mean: float, baselines: Sequence[tuple[str, float]]) -> Finding:
    verdict = together(_verdict(forecast.ratio(name, baseline), mean) for baseline, _ in baselines)
    does = {
        "holds": "predicts",
        "fails": "does not beat every baseline on",
        "open": "is not shown to beat every baseline on",
    }[verdict]
    against = " and ".join(f"{relative(mean, error)} {baseline}" for baseline, error in baselines)
    ahead = f"the next {len(forecast.frames_ahead)} frames, for this encoder"
    headline = f"{sentence(name)} {does} {ahead}: its squared error is {against}."
    return Finding(verdict, headline, f"{_frames_ahead_of_copying(forecast, name)} {_intervals(forecast, name)}")


def _verdict(ratio: ErrorRatio | None, mean: float) -> Verdict:
    """Returns whether a model has a smaller error than a baseline, by the interval of their ratio."""
    if ratio is None:  # the baseline makes no error at all
        return "fails" if mean else "open"
    if ratio.low is None or ratio.high is None:
        return "open"
    return "holds" if ratio.high < 1 else "fails" if ratio.low > 1 else "open"


def _intervals(forecast: ForecastErrors, name: str) -> str:
    """Writes the intervals of a model's ratios, and what they are over."""
    words = [
        f"{low.removesuffix(' below') if high.endswith(' below') else low} to {high} {ratio.baseline}"
        for ratio in forecast.ratios
        if ratio.model == name and ratio.low is not None and ratio.high is not None
        for low, high in [(relative(max(0.0, ratio.low), 1), relative(ratio.high, 1))]
    ]
    if not words:
        return "Intervals need several videos, or groups of them."
    groups = "videos" if forecast.num_groups == forecast.num_videos else "groups of videos"
    return f"95% intervals over {forecast.num_groups:,} {groups}: {listed_words(words, 'and')}."


def relative(error: float, reference: float) -> str:
    """Compares an error with another: '68.7% below', '12% above' or, from twice as large on, '38 times that of'."""
    if reference <= 0:
        return "above 0, that of" if error > 0 else "as large as that of"
    if error >= 2 * reference:
        return f"{number(error / reference)} times that of"
    change = 1 - error / reference
    return f"{percent(abs(change))} {'below' if change >= 0 else 'above'}"


def _frames_ahead_of_copying(forecast: ForecastErrors, name: str) -> str:
    videos = f" of {count_of(forecast.num_videos, 'video')}" if forecast.num_videos else ""
    windows = f"Mean over {forecast.num_windows:,} windows{videos}."
    if COPY_LAST not in forecast.predictors:
        return windows
    errors = zip(forecast.frames_ahead, forecast.predictors[name], forecast.predictors[COPY_LAST], strict=True)
    frames = [frame for frame, error, copied in errors if error < copied]
    total = len(forecast.frames_ahead)
    if len(frames) == total:
        return f"{windows} It is ahead of copying at every frame."
    which = f" ({listed_words(_ranges(frames), 'and')})" if frames else ""
    return f"{windows} It is ahead of copying at {len(frames)} of {total} frames{which}."


def _ranges(frames: Sequence[int]) -> list[str]:
    """Writes rising numbers with three or more in a row as a range: 1, 4 to 8."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return [
        word for run in runs for word in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(frame) for frame in run])
    ]


def _advice(results: Results, forecast: NodeView) -> list[Finding]:
    pretrained = _pretrained(results, forecast)
    histories = {history.name: history.content for history in results.histories}
    reasons, options = [], []
    num_videos = results.videos.num_videos - results.videos.count("rejected")
    if 0 < num_videos < FEW_VIDEOS:
        reasons.append(f"the run has {count_of(num_videos, 'video')}, few to learn motion from")
        options.append("more videos")
    passes = [share for node in pretrained if (share := _passes(node)) is not None]
    if passes and min(passes) < ENOUGH_PASSES:
        reasons.append(f"pretraining saw its sequences {_times(min(passes))}")
        options.append(f"--pretrain.num-steps {_steps_for(pretrained, ENOUGH_PASSES)}")
    elif any(_is_falling(histories.get(node.name)) for node in pretrained):
        reasons.append("the validation loss was still falling when training ended")
        options.append("more --pretrain.num-steps")
    if pretrained and not any(node.facts.get("residual") or _setting(node, "residual") for node in pretrained):
        reasons.append("a model that is not residual must carry through its state what copying has for nothing")
        options.append("--pretrain.residual --pretrain.autoregressive, whose untrained model is a linear forecast")
    reasons += _of_linear_parts(results, forecast)
    if not reasons:
        reasons.append("nothing in the run's settings explains it")
        options.append("a larger model (--pretrain.num-units) and another --pretrain.optimizer.learning-rate")
    return [
        Finding("note", f"Why: {listed_words(reasons, 'and')}."),
        Finding("note", f"To try: {listed_words(list(dict.fromkeys(options)), 'or')}."),
    ]


def _pretrained(results: Results, forecast: NodeView) -> list[NodeView]:
    """Returns the nodes of the encoders that a forecast is of."""
    nodes = {node.name: node for node in results.view.nodes}
    return [nodes[name] for name in forecast.parents if isinstance(nodes[name].artifact, Encoder)]


def _of_linear_parts(results: Results, forecast: NodeView) -> list[str]:
    """Says what the linear forecast can do that a residual model begins as, and what its training added to that."""
    pretrained, said = _pretrained(results, forecast), []
    histories = {history.name: history.content for history in results.histories}
    for node in pretrained:
        history = histories.get(node.name)
        if history is None or not (node.facts.get("autoregressive") or _setting(node, "autoregressive")):
            continue
        losses = {row["step"]: row.get("predict_loss") for row in history.validation}
        linear, kept = losses.get(0), losses.get(history.kept_step)
        if not linear or kept is None:
            continue
        gain = 1 - kept / linear
        added = f"took {percent(gain)} off" if gain >= STILL_FALLING else "added nothing"
        model = "the model" if len(pretrained) == 1 else node.name
        said.append(
            f"a linear forecast, as which {model} began, "
            f"had a validation loss of {number(linear)}, and training {added}"
        )
    return said


def _passes(node: NodeView) -> float | None:
    """Returns how often training saw every sequence, on average; None if the facts do not say."""
    seen, total = node.facts.get("num_sequences_seen"), node.facts.get("num_sequences")
    return float(seen) / float(total) if seen is not None and total else None


def _times(passes: float) -> str:
    return f"{number(passes)} times" if passes >= 1 else f"for {percent(passes)} of one pass"


def _steps_for(nodes: Iterable[NodeView], passes: float) -> int:
    """Returns the optimiser steps that so many passes take, rounded up to two digits."""
    steps = max(
        passes * float(node.facts["num_sequences"]) / float(_setting(node, "batch_size") or 1)
        for node in nodes
        if node.facts.get("num_sequences")
    )
    unit: int = 10 ** max(0, math.floor(math.log10(steps)) - 1)
    return int(math.ceil(steps / unit) * unit)


def _setting(node: NodeView, name: str) -> Any:
    """Returns a setting of a pretraining or of its model; None if there is none of that name."""
    for group in (node.config, node.config.get("training"), node.config.get("model")):
        if isinstance(group, dict) and name in group:
            return group[name]
    return None


def _is_falling(history: TrainingHistory | None) -> bool:
    losses = (
        [loss for row in history.validation if (loss := row.get("loss")) is not None] if history is not None else []
    )
    return len(losses) > 1 and losses[-1] < (1 - STILL_FALLING) * losses[-2]
