"""near_duplicates: test clips that may be among the videos that were pretrained on.

    duplicates = near_duplicates(NearDuplicatesConfig(), context, pretraining=unlabelled, percepts=percepts,
                                 statistics=statistics, splits=splits)

UCF-101 was collected from YouTube, as the unlabelled videos were: a model that was pretrained on a test clip has seen
it, though not its label. Percepts are compared and not bytes, since copies are cut, scaled and encoded anew
(`stages.evaluation.similarity`).

The threshold comes from the data, and is justified on both sides. The similarity of strangers is measured by comparing
each test clip with training clips of other classes and other footage, as many as there are pretraining videos if there
are so many: a clip is flagged if its similarity to some pretraining video exceeds the (1 - false_alarms) quantile of
these. The recall of the check is measured by comparing each test clip with other frames of itself.

Writes `duplicates.json`.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.numbers import check_at_least
from pipeline.core.stage import Context, stage
from stages.datasets.split_subsets import clips_of, records_of, split_numbers
from stages.datasets.splits import Splits
from stages.evaluation.artifacts import DuplicateReport, NearDuplicates, SuspectedClip
from stages.evaluation.similarity import Looks, best_matches, similarities
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.transforms import Standardisation
from stages.video.ledger import VideoRecord

NOTHING_TO_COMPARE = "No test clip was there, so that none was compared with the videos that were pretrained on."


@dataclass(frozen=True, kw_only=True)
class NearDuplicatesConfig:
    """The videos that are compared, how finely, and how rare a suspect is among strangers."""

    parts: tuple[str, ...] = ("unlabelled",)
    """Parts of `pretraining` that were learned from."""
    test_part: str = "test"
    """Part of `percepts` whose clips are looked for."""
    num_frames: int = 8
    """Frames of each video, evenly spaced."""
    num_candidates: int = 5
    """Pretraining videos of the most similar mean percept whose frames are compared with a clip's."""
    false_alarms: float = 0.001
    """Share of test clips that would be suspects if there were strangers only."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_frames", "num_candidates")
        if not 0 < self.false_alarms < 1:
            raise ConfigError(f"false_alarms is {self.false_alarms}; it is a share: give one between 0 and 1")


@stage(version=2)
def near_duplicates(
    config: NearDuplicatesConfig,
    context: Context,
    *,
    pretraining: Percepts,
    percepts: Percepts,
    statistics: Statistics,
    splits: Splits | None = None,
) -> NearDuplicates:
    """Compares every test clip of any split with every pretraining video.

    Raises:
        SourceError: there are no pretraining videos; without official splits, no test clips or no others. Of a data
          set of which only some clips are there, both may be lacking: then it is said what could not be compared.
        ConfigError: the percepts are not of one kind.
    """
    artifact = NearDuplicates(context.uri, context.key)
    tested, strangers = _tested_and_strangers(config, percepts, splits)
    if not tested:
        artifact.write(DuplicateReport(sentence=NOTHING_TO_COMPARE, suspects=()))
        context.record(num_suspects=0, num_test_clips=0)
        return artifact
    store, standardise = percepts.open(), Standardisation.of(statistics.moments())
    unlabelled = pretraining.open(parts=config.parts)
    if unlabelled.extractor.fingerprint != store.extractor.fingerprint:
        raise ConfigError("pretraining and test percepts are of different extractors; extract both alike")
    rng = np.random.default_rng(0)
    if len(strangers) > len(unlabelled.videos):
        chosen = np.sort(rng.choice(len(strangers), len(unlabelled.videos), replace=False))
        strangers = [strangers[number] for number in chosen]
    seen = dict.fromkeys(unlabelled.videos)
    test_looks = Looks(store, [clip.sha256 for clip in tested], standardise, config.num_frames)
    context.progress(1, 4, "comparisons")
    other = Looks(store, [clip.sha256 for clip in strangers], standardise, config.num_frames)
    labels = np.array([str(clip.label) for clip in strangers])
    groups = np.array([str(clip.group) for clip in strangers])
    related_NM = np.stack([(labels == clip.label) | (groups == str(clip.group)) for clip in tested])
    _, null_N = best_matches(test_looks, other, num_candidates=config.num_candidates, excluded_NM=related_NM)
    context.progress(2, 4, "comparisons")
    null_N = null_N[~related_NM.all(1)]
    # Without strangers nothing says what is too alike: then only the very same file is a suspect.
    threshold = float(np.quantile(null_N, 1 - config.false_alarms, method="higher")) if len(null_N) else 1.0
    again = Looks(store, test_looks.videos, standardise, config.num_frames, offset=0.5)
    self_N = np.array([similarities(test_looks.frames([n])[0], again.frames([n]))[0] for n in range(len(tested))])
    context.progress(3, 4, "comparisons")
    pretraining_looks = Looks(unlabelled, list(seen), standardise, config.num_frames)
    best_N, similarity_N = best_matches(test_looks, pretraining_looks, num_candidates=config.num_candidates)
    matched = {pretraining_looks.videos[best] for best in best_N.tolist()}
    names = {record.sha256: record.uri for record in pretraining.iter_records() if record.sha256 in matched}
    suspects = tuple(
        SuspectedClip(
            test=tested[row].uri,
            pretraining=names[pretraining_looks.videos[best_N[row]]],
            similarity=round(float(similarity_N[row]), 4),
            is_same_file=tested[row].sha256 in seen,
        )
        for row in np.argsort(-similarity_N, kind="stable").tolist()
        if similarity_N[row] > threshold or tested[row].sha256 in seen
    )
    report = DuplicateReport(
        sentence="",
        suspects=suspects,
        num_test_clips=len(tested),
        num_pretraining_videos=len(pretraining_looks.videos),
        num_strangers=len(strangers) if len(null_N) else 0,
        threshold=threshold,
        false_alarms=config.false_alarms,
        stranger_quantiles=_quantiles(null_N) if len(null_N) else {},
        pretraining_quantiles=_quantiles(similarity_N),
        recall_of_other_frames=float((self_N > threshold).mean()),
    )
    artifact.write(replace(report, sentence=sentence(report)))
    context.record(num_suspects=len(suspects), num_test_clips=len(tested), threshold=round(threshold, 4))
    return artifact


def _tested_and_strangers(
    config: NearDuplicatesConfig, percepts: Percepts, splits: Splits | None
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """Returns the clips that any split tests, and labelled clips as strangers: without splits, those of other parts."""
    records = clips_of(percepts, splits)
    everything = [r for number in split_numbers(splits, ()) for r in records_of(records, splits, number)]
    usable = [r for r in everything if r.label is not None and r.verdict != "rejected"]
    tested = {r.sha256: r for r in usable if r.part == config.test_part}
    strangers = {r.sha256: r for r in usable if splits is not None or r.part != config.test_part}
    if splits is None and not (tested and strangers):
        raise SourceError(f"there are {len(tested)} labelled test clips and {len(strangers)} others: both are needed")
    return list(tested.values()), list(strangers.values())


def _quantiles(values: Any) -> dict[str, float]:
    return {f"{q:g}": round(float(np.quantile(values, q)), 4) for q in (0.5, 0.9, 0.99, 0.999, 1.0)}


def sentence(report: DuplicateReport) -> str:
    """Writes down what was found, in words."""
    num, total = len(report.suspects), report.num_test_clips
    if not report.num_strangers:
        verb = "is" if num == 1 else "are"
        return (
            f"{num:,} of {total:,} test clips {verb} among the {report.num_pretraining_videos:,} videos that were "
            "pretrained on, as the same file. Copies that are cut or encoded anew could not be looked for: there are "
            "no training clips of other classes and footage to tell what strangers look like."
        )
    assert report.false_alarms is not None
    expected = report.false_alarms * total
    verb = "looks" if num == 1 else "look"
    text = (
        f"{num:,} of {total:,} test clips {verb} like one of the {report.num_pretraining_videos:,} videos that "
        f"were pretrained on: their similarity is above {report.threshold:.3f}, which {report.false_alarms:.1%} of "
        f"test clips reach with training clips of other classes and footage, so that about {expected:.0f} would be "
        "suspects by chance. Of clips of which other frames were pretrained on, the check finds "
        f"{report.recall_of_other_frames:.1%}."
    )
    if report.num_strangers < report.num_pretraining_videos:
        text += (
            f" There are only {report.num_strangers:,} such training clips: with more strangers to choose from, "
            "more would be alike by chance."
        )
    return text
