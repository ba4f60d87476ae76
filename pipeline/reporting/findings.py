"""The findings of a run, in sentences that follow the numbers: a claim holds, fails or is open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.core.printable import count_of, human_seconds
from pipeline.reporting.action_tables import COMPOSITE
from pipeline.reporting.claims import (
    Finding,
    Verdict,
    interval_scope,
    labels,
    listed_words,
    number_of,
    points,
    sentence,
    together,
    within,
)
from pipeline.reporting.forecast_findings import forecast_findings
from pipeline.reporting.paper_findings import paper_findings
from pipeline.reporting.paper_numbers import MNIST_COLUMN, OPEN_LOOP, TABLE_2
from pipeline.reporting.results import Results, count_name, missing_clips
from pipeline.reporting.svg import percent
from pipeline.reporting.view import NodeView
from stages.evaluation.artifacts import PixelScoreTable
from stages.evaluation.score_table import PairedDifference, ScoreTable
from stages.serving.artifacts import Actions, Embeddings

CHANCE_OF_ORDER = 0.5
HEADLINE_LABELS = 5
"""The label count that the first sentence is about, where it was measured; else the middle one."""


def findings(results: Results) -> tuple[Finding, ...]:
    """Returns every finding of a run, the claims first."""
    sentences: list[Finding] = []
    for scores in (result.content for result in results.scores):
        is_table = COMPOSITE in scores.models or scores.dataset is not None or scores.weights is not None
        claims = paper_findings(scores) if is_table else _ordering(scores)
        sentences += [*claims[:1], _best(scores), *claims[1:], *_order(scores)]
    for forecast in results.forecasts:
        sentences += forecast_findings(results, forecast)
    for pixels in results.pixel_scores:
        sentences += _pixels(pixels.content)
    for node in results.view.nodes:
        sentences += [_embeddings(node, node.artifact)] if isinstance(node.artifact, Embeddings) else []
        sentences += [_actions(node, node.artifact)] if isinstance(node.artifact, Actions) else []
    if results.ledgers:
        sentences.append(_videos(results))
    sentences.append(_reuse(results))
    return tuple(sentences)


def longest_chain(pairs: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    """Returns the longest run of comparisons in which each begins with the model that the one before ended with."""
    ending_at: dict[str, tuple[PairedDifference, ...]] = {}
    for _ in pairs:
        for pair in pairs:
            chain = (*ending_at.get(pair.worse, ()), pair)
            is_loop = any(earlier.worse == pair.better for earlier in chain)
            if not is_loop and len(chain) > len(ending_at.get(pair.better, ())):
                ending_at[pair.better] = chain
    return max(ending_at.values(), key=len, default=())


def chain_verdict(chain: Iterable[PairedDifference]) -> Verdict:
    """Returns `holds` if every difference has its interval above zero, `fails` if one has it below, else `open`."""
    verdicts = {pair.verdict for pair in chain}
    return "fails" if "reversed" in verdicts else "open" if "unclear" in verdicts else "holds"


def headline_labels(counts: Sequence[int]) -> int:
    """Returns the label count that the first sentence is about."""
    return HEADLINE_LABELS if HEADLINE_LABELS in counts else counts[len(counts) // 2]


def _ordering(scores: ScoreTable) -> list[Finding]:
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
    count = count_of(chain[0].num_samplings, "sampling")
    samplings = f"Mean difference in accuracy, paired over {count} of the labels"
    headline = within(chain, f"With {labels(first)}, {says}")
    ordering_finding = Finding(verdict, f"{headline}.", f"{samplings}: {details}. {interval_scope(scores)}")
    others = {n: chain_verdict(c) for n, c in chains.items() if n != first}
    return [ordering_finding, *_elsewhere(others, limits=within(chain, ""))]


def _difference(pair: PairedDifference) -> str:
    if not pair.has_interval:
        return f"{pair.better} over {pair.worse} {points(pair.difference)} points (no interval)"
    zero = {"holds": "", "unclear": ", which includes zero", "reversed": ", below zero"}[pair.verdict]
    zero += f", over {pair.over}" if pair.over != "samplings" else ""
    interval = f"95% interval {points(pair.low)} to {points(pair.high)}{zero}"
    return f"{pair.better} over {pair.worse} {points(pair.difference)} points ({interval})"


def _elsewhere(verdicts: dict[int, Verdict], *, limits: str) -> list[Finding]:
    if not verdicts:
        return []
    words = {"holds": "holds", "open": "is not established", "fails": "does not hold"}
    groups = {word: [n for n, v in verdicts.items() if v == verdict] for verdict, word in words.items()}
    (word, counts), *rest = [(word, counts) for word, counts in groups.items() if counts]
    others = "".join(f"; with {_listed(counts)} it {word}" for word, counts in rest)
    only = next(iter(set(verdicts.values()))) if len(set(verdicts.values())) == 1 else "note"
    return [Finding(only, f"The same ordering {word} with {labels(*counts)}{others}{limits}.")]


def _best(scores: ScoreTable) -> Finding:
    most = scores.label_counts[-1]
    best = scores.best(most)
    if best is None:
        said = "Nothing could be judged: no split has training and test clips that are there."
        return Finding("open", said, missing_clips(scores))
    right = f"{percent(best.mean)} of {scores.num_test_clips:,} test clips"
    headline = f"The best with {labels(most)} is {best.model}: {right}."
    chance = f"chance is {percent(scores.chance)}"
    if not best.has_interval:
        return Finding("open", headline, f"One value, which gives no interval; {chance}.")
    detail = f"95% interval {percent(best.low)} to {percent(best.high)}, {best.population}; {chance}"
    if best.low <= scores.chance:
        return Finding("open", headline, f"{detail}: that is not above chance.")
    return Finding("note", headline, f"{detail}.")


def _order(scores: ScoreTable) -> list[Finding]:
    """Says how often each model takes a class for its time reversal, with the most labels."""
    most = scores.label_counts[-1]
    rows = sorted((row for row in scores.order if row.labels_per_class == most), key=lambda row: -row.mean)
    if not rows:
        return []
    best = rows[0]
    verdict: Verdict = "open" if not best.has_interval or best.low <= CHANCE_OF_ORDER else "holds"
    does = "tells" if verdict == "holds" else "is not shown to tell"
    headline = f"With {labels(most)}, {best.model} {does} a class from its time reversal{best.limits}"
    details = "; ".join(
        f"{row.model} {percent(row.mean)}"
        + (f" ({percent(row.low)} to {percent(row.high)})" if row.has_interval else "")
        for row in rows
    )
    return [
        Finding(
            verdict,
            f"{headline}.",
            f"Share right of the clips taken for either, which only order tells apart: {details}.",
        )
    ]


def _pixels(pixels: PixelScoreTable) -> list[Finding]:
    best = pixels.best
    if best is None:
        return [Finding("open", f"No {pixels.protocol} figure was measured.")]
    value = pixels.value(best)
    assert value is not None
    baselines = {row.model: error for row in pixels.baselines if (error := pixels.value(row)) is not None}
    reached = f"{pixels.protocol}, {number_of(value)} {pixels.unit}"
    detail = "; ".join(f"{name}: {number_of(error)}" for name, error in baselines.items())
    if pixels.in_nats and pixels.protocol == OPEN_LOOP:
        row = "composite, conditional future"
        detail += f"{'; ' if detail else ''}the paper's {row}: {TABLE_2.confirmed(row, MNIST_COLUMN)}, on its test set"
    detail = f"{sentence(detail)}." if detail else ""
    if not baselines:
        return [Finding("note", sentence(f"{best.model} predicts best: {reached}."), detail)]
    intervals = [pixels.interval(row) for row in pixels.baselines if row.model in baselines]
    verdict = together(_is_lower(pixels.interval(best), interval) for interval in intervals)
    does = {
        "holds": "predicts better than",
        "fails": "does not predict better than",
        "open": "is not shown to predict better than",
    }[verdict]
    names = " and ".join(baselines)
    return [Finding(verdict, sentence(f"{best.model} {does} {names}, for this encoder: {reached}."), detail)]


def _is_lower(interval: tuple[float, float] | None, other: tuple[float, float] | None) -> Verdict:
    """Returns whether an error is lower than another, where their intervals over test sequences do not overlap."""
    if interval is None or other is None:
        return "open"
    return "holds" if interval[1] < other[0] else "fails" if interval[0] > other[1] else "open"


def _embeddings(node: NodeView, embeddings: Embeddings) -> Finding:
    headline = f"Embeddings: {_rows(node)}, {node.facts['num_values']:,} values each."
    return Finding("note", headline, f"In {embeddings.directory}, as Parquet.")


def _actions(node: NodeView, actions: Actions) -> Finding:
    facts = node.facts
    headline = f"Actions: {_rows(node)}; most often {facts['most_frequent']}."
    if "num_videos_right" in facts:
        number, right = int(facts["num_videos_labelled"]), int(facts["num_videos_right"])
        headline += f" Of {count_of(number, 'new video')} with a label, {right:,} are named as it."
    return Finding("note", headline, f"In {actions.directory}, as Parquet.")


def _rows(node: NodeView) -> str:
    videos, num_rows = count_of(int(node.facts["num_videos"]), "video"), int(node.facts["num_rows"])
    return videos if num_rows == node.facts["num_videos"] else f"{count_of(num_rows, 'window')} of {videos}"


def _videos(results: Results) -> Finding:
    videos = results.videos
    ok, partial, rejected = (videos.count(verdict) for verdict in ("ok", "partial", "rejected"))
    total = count_of(videos.num_videos, "video")
    headline = f"Of {total}, {ok:,} {'is' if ok == 1 else 'are'} whole, {partial:,} partial, {rejected:,} rejected."
    if num_copies := sum(int(node.facts.get("num_duplicates", 0)) for node in results.view.nodes):
        copies = "is a copy of another" if num_copies == 1 else "are copies of others"
        headline += f" {num_copies:,} {copies}."
    left_out = "".join(
        f" Left out: {node.facts['left_out']}." for node in results.view.nodes if "left_out" in node.facts
    )
    if not videos.decoded:
        return Finding("note", headline, f"Frames were not counted in this run.{left_out}")
    parts = " + ".join(f"{videos.frames(kind):,} {kind}" for kind in ("decoded", "dropped", "missing"))
    account = f"Every frame has its place: {videos.frames('expected'):,} expected = {parts}."
    return Finding("note", headline, account + left_out)


def _reuse(results: Results) -> Finding:
    nodes = results.view.nodes
    made = [node for node in nodes if node.state == "made"]
    if not made:
        spent = human_seconds(sum(node.seconds for node in nodes))
        return Finding(
            "note", f"Nothing was made anew: {count_of(len(nodes), 'stage')} reused, {spent} of earlier work."
        )
    reused = len(nodes) - len(made)
    took = human_seconds(sum(node.seconds for node in made))
    return Finding("note", f"{count_of(len(made), 'stage')} made in {took} of work, {reused} reused.")


def _listed(values: Sequence[int]) -> str:
    return listed_words([count_name(value) for value in values], "and")
