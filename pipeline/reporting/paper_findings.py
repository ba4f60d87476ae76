"""The paper's findings about action recognition, and whether each holds, fails or stays open in a run.

A finding holds where the 95% interval of its difference lies on its side of zero and, where one row is compared with
several others, the p value adjusted for that (Holm) is below 0.05. It fails where that is so on the other side.
Otherwise it is open: that is a statement about the run, and none about the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipeline.reporting.action_tables import ALL, COMPOSITE, PRETRAINED, SCRATCH, SINGLE_FRAME, small_count
from pipeline.reporting.claims import Finding, Verdict, labels, listed_words, points, together, within
from pipeline.reporting.results import missing_clips
from stages.evaluation.score_table import Bounded, GainChange, PairedDifference, ScoreTable

LITTLE: Final = 0.01
"""Largest difference in accuracy between conditional and unconditional decoders that counts as none."""
LEVEL: Final = 0.05


def paper_findings(scores: ScoreTable) -> list[Finding]:
    """Returns one finding for each of the paper's that the run has measured anything for."""
    if scores.weights is not None:
        return _fusion(scores)
    sentences = [
        *_step(scores, SINGLE_FRAME, SCRATCH, "an LSTM over frames is better than single frames (Table 1)"),
        *_step(scores, SCRATCH, COMPOSITE, "starting from the composite is better than from scratch (Table 1)"),
        *_any_pretraining(scores),
        *_fewer_labels(scores),
        *_both_decoders(scores),
        *_conditioning(scores),
    ]
    if missing_clips(scores) and scores.is_evaluated:
        sentences.append(
            Finding("open", "None of this is a statement about the whole data set.", missing_clips(scores))
        )
    return sentences


def verdict_of(pair: PairedDifference) -> Verdict:
    """Returns the verdict on the claim that the better model is better."""
    if pair.p_holm is not None and pair.p_holm >= LEVEL:
        return "open"
    return "fails" if pair.verdict == "reversed" else "holds" if pair.verdict == "holds" else "open"


SAYS: Final[dict[Verdict, str]] = {
    "holds": "In this run as in the paper, {}.",
    "fails": "Not in this run: that {}.",
    "open": "This run cannot tell whether {}.",
}


def _say(verdict: Verdict, claim: str, detail: str, measured: Sequence[Bounded]) -> Finding:
    return Finding(verdict, SAYS[verdict].format(within(measured, claim)), detail)


def _figures(pair: PairedDifference | GainChange) -> str:
    difference = pair.difference if isinstance(pair, PairedDifference) else pair.change
    if abs(pair.low) == float("inf"):
        return f"{points(difference)} points, no interval: one value"
    said = f"{points(difference)} points, 95% interval {points(pair.low)} to {points(pair.high)} over {pair.population}"
    if isinstance(pair, PairedDifference):
        if pair.p_holm is not None:
            said += f", p {_p(pair.p_holm)}"
        if pair.groups_low is not None and pair.groups_high is not None:
            ends = f"{points(pair.groups_low)} to {points(pair.groups_high)}"
            said += f"; {ends} over {pair.num_groups:,} resampled groups of test clips, for these classifiers"
    return said


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _step(scores: ScoreTable, worse: str, better: str, claim: str) -> list[Finding]:
    """Compares two models at all labels or, if those were not measured, at the most that were."""
    counts = [n for n in scores.label_counts if scores.pair(worse, better, n)]
    if not counts:
        return []
    pair = scores.pair(worse, better, counts[-1])
    assert pair is not None
    return [_say(verdict_of(pair), claim, f"With {labels(counts[-1])}: {_figures(pair)}.", [pair])]


def _any_pretraining(scores: ScoreTable) -> list[Finding]:
    sentences = []
    for count in dict.fromkeys((small_count(scores), ALL)):
        pairs = [] if count is None else [p for row in PRETRAINED if (p := scores.pair(SCRATCH, row, count))]
        if len(pairs) < 2:
            continue
        verdicts = [verdict_of(pair) for pair in pairs]
        number = verdicts.count("holds")
        claim = f"each of the {len(pairs)} ways of pretraining is better than none with {labels(count or 0)} (Table 3)"
        detail = "; ".join(f"{pair.better} {_figures(pair)}" for pair in pairs)
        sentences.append(_say(together(verdicts), claim, f"{number} of {len(pairs)} are. {detail}.", pairs))
    return sentences


def _fewer_labels(scores: ScoreTable) -> list[Finding]:
    sentences = []
    for gain in scores.gains:
        if (gain.worse, gain.better) != (SCRATCH, COMPOSITE):
            continue
        verdict: Verdict = {"holds": "holds", "reversed": "fails", "unclear": "open"}[gain.verdict]  # type: ignore[assignment]
        claim = f"pretraining helps more with {labels(gain.fewest)} than with {labels(gain.most)}"
        sentences.append(_say(verdict, claim, f"The gain changes by {_figures(gain)}.", [gain]))
    return sentences


def _both_decoders(scores: ScoreTable) -> list[Finding]:
    count = small_count(scores)
    pairs = [p for row in ("autoencoder", "future predictor") if count and (p := scores.pair(row, COMPOSITE, count))]
    if not pairs:
        return []
    claim = f"the composite is better than {listed_words([pair.worse for pair in pairs], 'and')} alone (Table 3)"
    detail = "; ".join(f"over {pair.worse} {_figures(pair)}" for pair in pairs)
    return [_say(together(map(verdict_of, pairs)), claim, f"With {labels(count or 0)}: {detail}.", pairs)]


def _conditioning(scores: ScoreTable) -> list[Finding]:
    """Compares conditional with unconditional decoders.

    The paper finds next to no difference: what holds is an interval inside of +-LITTLE, not one that includes zero.
    """
    couples = (
        ("autoencoder", "conditional autoencoder"),
        ("future predictor", "conditional future predictor"),
        (COMPOSITE, "composite, conditional future"),
    )
    counts = [n for n in (small_count(scores), ALL) if n is not None]
    pairs = [(n, p) for n in counts for worse, better in couples if (p := scores.pair(worse, better, n))]
    if not pairs:
        return []
    if all(pair.low > -LITTLE and pair.high < LITTLE for _, pair in pairs):
        verdict: Verdict = "holds"
    elif any(pair.low > LITTLE or pair.high < -LITTLE for _, pair in pairs):
        verdict = "fails"
    else:
        verdict = "open"
    claim = f"conditional decoders change less than {points(LITTLE).lstrip('+')} points (Table 3)"
    detail = "; ".join(f"{p.better}, {labels(n)}: {_figures(p)}" for n, p in pairs)
    return [_say(verdict, claim, f"{detail}.", [pair for _, pair in pairs])]


def _fusion(scores: ScoreTable) -> list[Finding]:
    """Compares both streams together with each alone."""
    count = scores.label_counts[-1]
    streams, fused = scores.models[:2], scores.models[2:]
    sentences = []
    for rule in fused:
        pairs = [pair for stream in streams if (pair := scores.pair(stream, rule, count))]
        if not pairs:
            continue
        detail = "; ".join(f"over {pair.worse} {_figures(pair)}" for pair in pairs)
        claim = f"{rule} is better than {listed_words(streams, 'and')} alone (Table 4)"
        sentences.append(_say(together(map(verdict_of, pairs)), claim, f"{detail}.", pairs))
    return sentences
