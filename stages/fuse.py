"""fuse: two streams of percepts, such as RGB and flow, evaluated together (section 4.2, Table 4).

    scores = fuse(FuseConfig(), context, scores=(rgb, flow), classifiers=(composite_of_rgb, composite_of_flow))

Each stream has its own classifiers of the same clips. They are fused clip by clip, in logarithms of probabilities: by
the mean, and by a weight that is chosen for each split on the validation clips that both have held out, with the
classifiers that had not seen them. No test clip has a part in the choice.

Writes `scores.json` with a row a stream and one a rule.

Shapes: N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_at_least
from pipeline.core.stage import Context, stage
from stages.evaluation.artifacts import Scores
from stages.evaluation.predictions import PROBABILITIES_FILE, ClassProbabilities, read_probabilities
from stages.evaluation.scores import NotEvaluable, Predictions, by_count, scores_of
from stages.finetuning.artifacts import Classifiers
from stages.finetuning.selection import TrialResult

FLOOR = 1e-12
"""A probability below it counts as this much."""
Log = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FuseConfig:
    """The two streams, and how finely weights are tried."""

    streams: tuple[str, str] = ("RGB", "flow")
    """Names of the streams in tables, in the order of `scores` and `classifiers`."""
    arm: str = "composite"
    """The arm whose classifiers are fused."""
    num_weights: int = 21
    """Weights of the first stream to try on validation clips: evenly from 0 to 1."""

    def __post_init__(self) -> None:
        if len(set(self.streams)) != 2 or not all(self.streams):
            raise ConfigError(f"streams is {self.streams}; give two different names")
        check_at_least(self, 2, "num_weights")

    @property
    def mean_rule(self) -> str:
        """Name of its row."""
        return f"{' + '.join(self.streams)}, mean of log-probabilities"

    @property
    def chosen_rule(self) -> str:
        """Name of its row."""
        return f"{' + '.join(self.streams)}, weights chosen on validation"


@stage(version=2)
def fuse(
    config: FuseConfig, context: Context, *, scores: tuple[Scores, ...], classifiers: tuple[Classifiers, ...]
) -> Scores:
    """Evaluates both streams apart and together; with weights only where settings were chosen on validation clips.

    Raises:
        ConfigError: not two of each, streams without the arm, or of other test clips, classes, splits or labels.
    """
    if len(scores) != 2 or len(classifiers) != 2:
        raise ConfigError(f"fuse takes two streams; {len(scores)} scores and {len(classifiers)} classifiers were given")
    first, second = (_probabilities_of(config.arm, stream_scores) for stream_scores in scores)
    _check_same(config, first, second)
    learned = [_clips_learned_from(stream) for stream in classifiers]
    weights = _weights(config, classifiers)
    if not weights or {split for _, split, _ in first} - weights.keys():
        weights = {}
        context.log("not every split has clips that weights could be chosen by: only the mean is taken")
    rows: dict[str, list[Predictions]] = {name: [] for name in (*config.streams, config.mean_rule)}
    rows |= {config.chosen_rule: []} if weights else {}
    labels: dict[int, tuple[str, ...]] = {}
    for (count, split, sampling), one in first.items():
        two = second[count, split, sampling]
        logs = [_log(one.probabilities_NC), _log(_in_order(two, one.videos))]
        share = dict(zip(config.streams, (1.0, 0.0), strict=True)) | {config.mean_rule: 0.5}
        share |= {config.chosen_rule: weights[split]} if weights else {}
        labels[split] = one.labels
        for name in rows:
            which = 1 if name == config.streams[1] else 0
            run = (count, split, sampling)
            rows[name].append(_answer(name, run, one.class_names, _fused(logs, share[name]), learned[which][run]))
    fused = [name for name in rows if name not in config.streams]
    pairs = [(stream, rule) for rule in fused for stream in config.streams]
    answers: list[Predictions | NotEvaluable] = [one for row in rows.values() for one in row]
    answers = answers or _not_evaluable(rows, scores[0])
    table = scores_of(answers, labels, pairs=[config.streams, *pairs])
    stream = scores[0].read()
    table = replace(
        table,
        weights={config.chosen_rule: tuple(weights[split] for split in sorted(labels))} if weights else {},
        dataset=stream.dataset,
        num_clips=stream.num_clips,
        num_official_clips=stream.num_official_clips,
        coverage=stream.coverage,
    )
    fused_scores = Scores(context.uri, context.key)
    fused_scores.write(table)
    context.record(num_test_clips=table.num_test_clips, num_classifiers=len(table.samplings))
    return fused_scores


Key = tuple[int, int, int]
"""(labels a class, split, sampling)."""


def _probabilities_of(arm: str, scores: Scores) -> dict[Key, ClassProbabilities]:
    """Reads the probabilities of an arm; those of its first encoder, where it has several."""
    by_classifier = read_probabilities(scores.path(PROBABILITIES_FILE))
    encoders = list(dict.fromkeys(encoder for model, *_, encoder in by_classifier if model == arm))
    of_arm = {
        (count, split, sampling): value
        for (model, count, split, sampling, encoder), value in by_classifier.items()
        if model == arm and encoder == encoders[0]
    }
    table = scores.read()
    if not of_arm and arm in table.models and not table.is_evaluated:
        return {}  # no split could be evaluated
    if not of_arm:
        known = ", ".join(sorted({model for model, *_ in by_classifier})) or "none"
        raise ConfigError(f"{scores.uri} has no probabilities of arm {arm!r}; it has those of: {known}")
    return of_arm


def _not_evaluable(rows: Iterable[str], stream: Scores) -> list[Predictions | NotEvaluable]:
    """Makes a cell for each row, of the most labels, without figures."""
    table = stream.read()
    return [NotEvaluable(name, table.class_names, table.label_counts[-1], split=0) for name in rows]


def _check_same(
    config: FuseConfig, first: Mapping[Key, ClassProbabilities], second: Mapping[Key, ClassProbabilities]
) -> None:
    names = " and ".join(config.streams)
    if first.keys() != second.keys():
        raise ConfigError(f"{names} were measured at other label counts, splits or samplings; finetune them alike")
    for key, one in first.items():
        two = second[key]
        if one.class_names != two.class_names or sorted(one.videos) != sorted(two.videos):
            raise ConfigError(f"{names} were judged by other clips or classes; extract both from the same videos")


def _clips_learned_from(classifiers: Classifiers) -> dict[Key, tuple[str, ...]]:
    files = [classifiers.load(name) for name in classifiers.files()]
    return {
        (file.labels_per_class, file.split, sampling): clips
        for file in files
        for sampling, clips in zip(file.samplings, file.clips, strict=True)
    }


def _in_order(probabilities: ClassProbabilities | TrialResult, videos: Sequence[str]) -> npt.NDArray[np.float32]:
    place = {video: row for row, video in enumerate(probabilities.videos)}
    return probabilities.probabilities_NC[[place[video] for video in videos]]


def _log(probabilities_NC: npt.NDArray[np.float32]) -> Log:
    return np.log(np.maximum(probabilities_NC.astype(np.float64), FLOOR))


def _fused(logs: Sequence[Log], weight: float) -> Log:
    """Returns probabilities (N, C), proportional to p^weight q^(1 - weight)."""
    from scipy.special import softmax  # takes a moment to import

    return np.asarray(softmax(weight * logs[0] + (1 - weight) * logs[1], axis=1))


def _answer(
    name: str, key: Key, class_names: tuple[str, ...], probabilities_NC: Log, clips: tuple[str, ...]
) -> Predictions:
    count, split, sampling = key
    return Predictions(
        arm=name,
        class_names=class_names,
        labels_per_class=count,
        split=split,
        samplings=(sampling,),
        clips=(clips,),
        predicted_GN=probabilities_NC.argmax(1).astype(np.int16)[None],
        probability_GN=probabilities_NC.max(1).astype(np.float32)[None],
        probabilities_GNC=None,
        num_padded=0,
    )


def _weights(config: FuseConfig, classifiers: Sequence[Classifiers]) -> dict[int, float]:
    """Chooses a weight of the first stream for each split: the best on validation clips, of equals the nearest 1/2."""
    trials = [_chosen_trials(stream) for stream in classifiers]
    grid = sorted(np.linspace(0.0, 1.0, config.num_weights).tolist(), key=lambda weight: abs(weight - 0.5))
    weights: dict[int, float] = {}
    for split in sorted(trials[0].keys() & trials[1].keys()):
        one, two = trials[0][split], trials[1][split]
        if one.class_names != two.class_names or set(one.videos) != set(two.videos):
            raise ConfigError(f"{' and '.join(config.streams)} have held out other clips; connect the same splits")
        logs = [_log(one.probabilities_NC), _log(_in_order(two, one.videos))]
        truth = np.array([one.class_names.index(label) for label in one.labels])
        weights[split] = max(grid, key=lambda weight: float((_fused(logs, weight).argmax(1) == truth).mean()))
    return weights


def _chosen_trials(classifiers: Classifiers) -> dict[int, TrialResult]:
    """Loads, for each split, the trial that won at the most labels."""
    at_most_labels: dict[int, str] = {}
    for row in sorted(classifiers.selection().choices, key=lambda row: by_count(row.labels_per_class)):
        at_most_labels[row.split] = row.trial
    return {split: TrialResult.load(classifiers.path(trial)) for split, trial in at_most_labels.items()}
