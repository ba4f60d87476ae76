"""What a run found, in sentences that follow the numbers: what fails is said to fail, what is open to be open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.explain import human_seconds
from pipeline.paper_numbers import MNIST_COLUMN, OPEN_LOOP, TABLE_2
from pipeline.results import Forecast, Pair, PixelScores, Results, Scores
from pipeline.svg import number, percent

Verdict = Literal["holds", "fails", "open", "note"]

HEADLINE_LABELS = 5
"""The label count that the first sentence is about, where it was measured; else the middle one."""

COPY_LAST, MEAN_FRAME = "copy last frame", "mean frame"
BASELINES = (COPY_LAST, MEAN_FRAME)


@dataclass(frozen=True)
class Finding:
    """A sentence, and the figures behind it."""

    verdict: Verdict
    headline: str
    detail: str = ""


def findings(results: Results) -> tuple[Finding, ...]:
    """Everything worth saying about a run, the claims first."""
    found: list[Finding] = []
    for scores in results.scores:
        found += [*_ordering(scores), _best(scores)]
    for forecast in results.forecasts:
        found += _forecast(forecast)
    for pixels in results.pixel_scores:
        found += _pixels(pixels)
    if results.ledgers:
        found.append(_videos(results))
    found.append(_reuse(results))
    return tuple(found)


def longest_chain(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The longest run of comparisons in which each begins with the model that the one before ended with."""
    ending_at: dict[str, tuple[Pair, ...]] = {}
    for _ in pairs:
        for pair in pairs:
            chain = (*ending_at.get(pair.worse, ()), pair)
            is_loop = any(earlier.worse == pair.better for earlier in chain)
            if not is_loop and len(chain) > len(ending_at.get(pair.better, ())):
                ending_at[pair.better] = chain
    return max(ending_at.values(), key=len, default=())


def chain_verdict(chain: Iterable[Pair]) -> Verdict:
    """`holds` where every difference has its interval above zero, `fails` where one has it below, else `open`."""
    verdicts = {pair.verdict for pair in chain}
    return "fails" if "reversed" in verdicts else "open" if "unclear" in verdicts else "holds"


def points(fraction: float) -> str:
    """A difference of accuracies in percentage points, signed: 0.062 -> '+6.2'."""
    return f"{100 * fraction:+.1f}".replace("-", "−")


def headline_labels(counts: Sequence[int]) -> int:
    """The label count to speak about first."""
    return HEADLINE_LABELS if HEADLINE_LABELS in counts else counts[len(counts) // 2]


def _ordering(scores: Scores) -> list[Finding]:
    chains = {n: longest_chain(scores.pairs(n)) for n in scores.label_counts}
    chains = {n: chain for n, chain in chains.items() if chain}
    if not chains:
        return []
    first = headline_labels(list(chains))
    chain = chains[first]
    ordering = " < ".join([chain[0].worse, *(pair.better for pair in chain)])
    verdict = chain_verdict(chain)
    says = {
        "holds": "the ordering {} holds",
        "fails": "the ordering {} does not hold",
        "open": "the ordering {} is not established",
    }[verdict].format(ordering)
    details = "; ".join(_difference(pair) for pair in chain)
    samplings = f"Mean difference in accuracy, paired over {chain[0].num_samplings} samplings of the labels"
    found = [Finding(verdict, f"With {_labels(first)}, {says}.", f"{samplings}: {details}.")]
    others = {n: chain_verdict(c) for n, c in chains.items() if n != first}
    return [*found, *_elsewhere(others)]


def _difference(pair: Pair) -> str:
    zero = {"holds": "", "unclear": ", which includes zero", "reversed": ", below zero"}[pair.verdict]
    interval = f"95% interval {points(pair.low)} to {points(pair.high)}{zero}"
    return f"{pair.better} over {pair.worse} {points(pair.difference)} points ({interval})"


def _elsewhere(verdicts: dict[int, Verdict]) -> list[Finding]:
    if not verdicts:
        return []
    words = {"holds": "holds", "open": "is not established", "fails": "does not hold"}
    groups = {word: [n for n, v in verdicts.items() if v == verdict] for verdict, word in words.items()}
    said = [f"{word} with {_listed(counts)}" for word, counts in groups.items() if counts]
    only = next(iter(set(verdicts.values()))) if len(set(verdicts.values())) == 1 else "note"
    return [Finding(only, f"At other label counts it {'; it '.join(said)} labels a class.")]


def _best(scores: Scores) -> Finding:
    most = scores.label_counts[-1]
    best = scores.best(most)
    interval = f"95% interval {percent(best.low)} to {percent(best.high)}, {best.num_samplings} samplings"
    above = best.low > scores.chance
    chance = f"chance is {percent(scores.chance)}" + ("" if above else ": that is not above chance")
    headline = f"The best with {_labels(most)} is {best.model}: {percent(best.mean)} of {scores.num_test_clips} test clips."
    return Finding("note" if above else "open", headline, f"{interval}; {chance}.".capitalize())


def _forecast(forecast: Forecast) -> list[Finding]:
    found = []
    for name, mean in forecast.means.items():
        against = [(baseline, forecast.means[baseline]) for baseline in BASELINES if baseline in forecast.means]
        if name in BASELINES or not against:
            continue
        wins = all(mean < error for _, error in against)
        compared = " and ".join(f"{_relative(mean, error)} than {baseline}" for baseline, error in against)
        ahead = f"the next {len(forecast.frames_ahead)} frames"
        does = f"{name} predicts {ahead} with {compared}." if wins else f"{name} does not predict {ahead} better than both "
        if not wins:
            does += f"baselines: it has {compared}."
        found.append(Finding("holds" if wins else "fails", does, _where_ahead(forecast, name)))
    return found


def _where_ahead(forecast: Forecast, name: str) -> str:
    windows = f"Mean over {forecast.num_windows:,} windows."
    if COPY_LAST not in forecast.predictors:
        return windows
    errors = zip(forecast.frames_ahead, forecast.predictors[name], forecast.predictors[COPY_LAST], strict=True)
    frames = [frame for frame, error, copied in errors if error < copied]
    total = len(forecast.frames_ahead)
    if len(frames) == total:
        return f"{windows} It is ahead of copying at every frame."
    return f"{windows} It is ahead of copying at {len(frames)} of {total} frames" + (
        f" ({_listed(frames)})." if frames else "."
    )


def _relative(error: float, reference: float) -> str:
    change = 1 - error / reference if reference else 0.0
    return f"{percent(abs(change))} {'less' if change >= 0 else 'more'} squared error"


def _pixels(pixels: PixelScores) -> list[Finding]:
    best = pixels.best
    if best is None:
        return [Finding("open", f"No {pixels.protocol} figure was measured.")]
    value = pixels.value(best)
    assert value is not None
    headline = f"{best.model} predicts best, {pixels.protocol}: {number_of(value)} {pixels.unit}."
    known = [(row.model, v) for row in pixels.baselines if (v := pixels.value(row)) is not None]
    said = [f"{name} has {number_of(v)}" for name, v in known]
    if pixels.in_nats and pixels.protocol == OPEN_LOOP:
        row = "composite, conditional future"
        published = TABLE_2.number(row, MNIST_COLUMN)
        assert published is not None
        said.append(f"the paper's best, {row}, {published} on its own test set")
    beats = all(value < v for _, v in known)
    verdict: Verdict = "note" if not known else "holds" if beats else "fails"
    detail = "; ".join(said)
    return [Finding(verdict, headline, f"{detail[:1].upper()}{detail[1:]}." if said else "")]


def _videos(results: Results) -> Finding:
    videos = results.videos
    ok, partial, rejected = (videos.count(verdict) for verdict in ("ok", "partial", "rejected"))
    headline = f"Of {_count(len(videos.records), 'video')}, {ok:,} are whole, {partial:,} partial, {rejected:,} rejected."
    if not videos.decoded:
        return Finding("note", headline, "Frames were not counted in this run.")
    parts = " + ".join(f"{videos.frames(kind):,} {kind}" for kind in ("decoded", "dropped", "missing"))
    return Finding("note", headline, f"Every frame has its place: {videos.frames('expected'):,} expected = {parts}.")


def _reuse(results: Results) -> Finding:
    nodes = results.view.nodes
    made = [node for node in nodes if node.state == "made"]
    if not made:
        spent = human_seconds(sum(node.seconds for node in nodes))
        return Finding("note", f"All {_count(len(nodes), 'stage')} were reused; making them had taken {spent}.")
    reused = len(nodes) - len(made)
    took = human_seconds(sum(node.seconds for node in made))
    return Finding("note", f"{_count(len(made), 'stage')} made in {took} of work, {reused} reused.")


def number_of(value: float) -> str:
    """An error to a tenth: '341.2'."""
    return f"{value:,.1f}" if abs(value) >= 1 else number(value)


def _labels(count: int) -> str:
    return f"{_count(count, 'label')} a class"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(values: Sequence[int]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
