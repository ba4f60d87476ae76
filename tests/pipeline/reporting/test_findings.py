"""The sentences of a report follow its numbers."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from pipeline.core.stage import Artifact
from pipeline.reporting.claims import labels, points
from pipeline.reporting.findings import chain_verdict, findings, longest_chain
from pipeline.reporting.forecast_findings import relative
from pipeline.reporting.note import escape_markdown
from pipeline.reporting.results import Results, read_results
from stages.evaluation.score_table import PairedDifference
from stages.models.artifacts import Encoder, TrainingHistory
from stages.video.artifacts import Index
from tests.pipeline.reporting.fake_run import (
    MEANS,
    PRETRAINED,
    SCRATCH,
    SINGLE,
    Content,
    FakeRun,
    demo,
    forecast,
    pixel_scores,
    records,
    scores,
    without_intervals,
)


def results_of(root: Path, content: Content, kind: type[Artifact] | None = None) -> Results:
    run = FakeRun(root)
    run.add("node", content, kind=kind)
    return read_results(run.view)


def said(results: Results) -> list[tuple[str, str]]:
    return [(finding.verdict, f"{finding.headline} {finding.detail}") for finding in findings(results)]


def pair(worse: str, better: str, low: float, high: float) -> PairedDifference:
    middle = (low + high) / 2
    return PairedDifference(
        worse=worse, better=better, labels_per_class=5, difference=middle, low=low, high=high, num_samplings=12
    )


def test_an_ordering_that_holds_is_said_to_hold_with_its_differences(tmp_path: Path) -> None:
    results = results_of(tmp_path, scores())
    verdict, text = said(results)[0]
    assert verdict == "holds"
    assert text.startswith(
        "With 5 labels a class, the ordering single frame < LSTM from scratch < LSTM pretrained holds."
    )
    for found in results.scores[0].content.pairs(5):
        assert f"{points(found.difference)} points (95% interval {points(found.low)} to {points(found.high)})" in text
    assert said(results)[2] == ("holds", "The same ordering holds with 1, 2 and 10 labels a class. ")


def test_an_ordering_that_fails_is_said_to_fail(tmp_path: Path) -> None:
    reversed_means = {**MEANS, PRETRAINED: (0.15, 0.2, 0.3, 0.5)}
    verdict, text = said(results_of(tmp_path, scores(reversed_means)))[0]
    assert verdict == "fails"
    assert "does not hold" in text
    assert "−" in text
    assert ", below zero" in text


def test_an_interval_around_zero_establishes_nothing(tmp_path: Path) -> None:
    undecided = {**MEANS, PRETRAINED: (0.40, 0.45, 0.45, 0.75)}
    found = said(results_of(tmp_path, scores(undecided)))
    assert found[0][0] == "open"
    assert "is not established" in found[0][1]
    assert "which includes zero" in found[0][1]
    assert "holds with 1, 2 and 10 labels a class" in found[2][1]


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [([(1, 2), (1, 2)], "holds"), ([(1, 2), (-1, 2)], "open"), ([(-2, -1), (1, 2)], "fails"), ([(0, 2)], "open")],
)
def test_a_chain_is_as_good_as_its_worst_link(intervals: list[tuple[float, float]], verdict: str) -> None:
    assert chain_verdict([pair("a", "b", low, high) for low, high in intervals]) == verdict


def test_the_longest_chain_is_found_among_all_pairs() -> None:
    pairs = [pair(a, b, 1, 2) for a, b in [("a", "d"), ("c", "d"), ("a", "c"), ("b", "c"), ("a", "b"), ("x", "y")]]
    chain = longest_chain(pairs)
    assert [link.worse for link in chain] == ["a", "b", "c"]
    assert chain[-1].better == "d"
    assert longest_chain([]) == ()
    assert len(longest_chain([pair("a", "b", 1, 2), pair("b", "a", 1, 2)])) == 1


@pytest.mark.parametrize(
    ("counts", "words"),
    [((1,), "1 label a class"), ((2,), "2 labels a class"), ((1, 2), "1 and 2 labels a class"), ((0,), "all labels")],
)
def test_numbers_of_labels_are_written_as_people_do(counts: tuple[int, ...], words: str) -> None:
    assert labels(*counts) == words


def test_one_sampling_proves_nothing(tmp_path: Path) -> None:
    found = said(results_of(tmp_path, without_intervals(scores())))
    assert found[0][0] == "open"
    assert "paired over 1 sampling of the labels" in found[0][1]
    assert "points (no interval)" in found[0][1]
    assert "One value, which gives no interval; chance is 12.5%." in found[1][1]


def test_no_better_than_chance_is_said(tmp_path: Path) -> None:
    means = {SINGLE: (0.12,) * 4, SCRATCH: (0.121,) * 4}
    texts = [text for verdict, text in said(results_of(tmp_path, scores(means))) if verdict == "open"]
    assert any("that is not above chance" in text for text in texts)


def test_prediction_is_compared_with_both_baselines(tmp_path: Path) -> None:
    verdict, text = said(results_of(tmp_path, forecast()))[0]
    means = forecast().means
    assert verdict == "holds"
    assert f"{100 * (1 - means['composite LSTM'] / means['copy last frame']):.1f}% below copy last frame" in text
    assert f"{100 * (1 - means['composite LSTM'] / means['mean frame']):.1f}% below mean frame" in text
    assert "at every frame" in text


def test_prediction_that_loses_to_copying_is_said_to_lose(tmp_path: Path) -> None:
    verdict, text = said(results_of(tmp_path, forecast(error=320.0)))[0]
    assert verdict == "fails"
    assert "does not beat every baseline" in text
    assert "above copy last frame" in text
    assert "ahead of copying at 3 of 8 frames (6 to 8)" in text


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [
        (0.4, 0.999, "holds", "95% intervals over 64 videos: 60% to 0.1% below copy last frame"),
        (0.4, 1.001, "open", "is not shown to beat every baseline"),
        (1.001, 2.5, "fails", "does not beat every baseline"),
        (-0.5, 1.5, "open", "100% below to 50% above copy last frame"),
        (None, None, "open", "Intervals need several videos"),
    ],
)
def test_a_forecast_holds_by_its_interval_over_videos(
    tmp_path: Path, low: float | None, high: float | None, verdict: str, words: str
) -> None:
    made = forecast()
    is_changed = ("copy last frame",) if low is not None else ("copy last frame", "mean frame")
    ratios = (replace(each, low=low, high=high) if each.baseline in is_changed else each for each in made.ratios)
    found, text = said(results_of(tmp_path, replace(made, ratios=tuple(ratios))))[0]
    assert found == verdict
    assert words in text
    assert "for this encoder" in text


def advice(root: Path, *, error: float, facts: dict[str, int | float | str], residual: bool, num_videos: int) -> str:
    run = FakeRun(root)
    run.add("index", records(num_videos)[:num_videos], kind=Index)
    settings = {"model": {"residual": residual}, "training": {"batch_size": 32}}
    run.add("pretrain", kind=Encoder, parents=("index",), facts=facts, config=settings)
    run.add("forecast", forecast(error), parents=("pretrain",))
    texts = [text for _, text in said(read_results(run.view))]
    return "".join(text for text in texts if text.startswith(("Why: ", "To try: ")))


def test_a_model_that_loses_to_copying_comes_with_reasons_and_options(tmp_path: Path) -> None:
    little: dict[str, int | float | str] = {"num_sequences": 4000, "num_sequences_seen": 480}
    text = advice(tmp_path / "little", error=9000.0, facts=little, residual=False, num_videos=6)
    for reason in ("6 videos", "12% of one pass", "--pretrain.num-steps 380", "--pretrain.residual"):
        assert reason in text
    enough: dict[str, int | float | str] = {"num_sequences": 4000, "num_sequences_seen": 400_000}
    text = advice(tmp_path / "enough", error=9000.0, facts=enough, residual=True, num_videos=200)
    assert "--pretrain.num-units" in text
    assert not [option for option in ("--pretrain.num-steps", "--pretrain.residual") if option in text]
    assert advice(tmp_path / "good", error=100.0, facts=little, residual=False, num_videos=6) == ""


@pytest.mark.parametrize("error", [9000.0, 100.0])
def test_what_a_linear_forecast_can_do_is_said_of_losers_and_winners(tmp_path: Path, error: float) -> None:
    run = FakeRun(tmp_path)
    losses = ({"step": 0.0, "loss": 20.0, "predict_loss": 12.0}, {"step": 6.0, "loss": 17.0, "predict_loss": 9.0})
    history = TrainingHistory(train=(), validation=losses, num_steps=6, kept_step=6)
    run.add("pretrain", history, kind=Encoder, config={"model": {"residual": True, "autoregressive": True}})
    run.add("forecast", forecast(error), parents=("pretrain",))
    text = " ".join(text for _, text in said(read_results(run.view)))
    assert "as which the model began, had a validation loss of 12, and training took 25% off" in text


@pytest.mark.parametrize(
    ("error", "reference", "words"),
    [
        (30.0, 100.0, "70% below"),
        (112.0, 100.0, "12% above"),
        (3906.6, 100.0, "39.1 times that of"),
        (1.0, 0.0, "above 0"),
    ],
)
def test_a_large_error_is_a_factor_and_no_percentage(error: float, reference: float, words: str) -> None:
    assert relative(error, reference).startswith(words)


def test_pixels_are_beside_the_paper_only_in_its_own_protocol(tmp_path: Path) -> None:
    verdict, text = said(results_of(tmp_path / "open", pixel_scores()))[0]
    assert verdict == "holds"
    assert "open loop, 331.4 nats/frame" in text
    assert "341.2" in text
    for name, changes in (("a", ("teacher forced", "nats/frame")), ("b", ("open loop", "squared error/frame"))):
        assert "341.2" not in said(results_of(tmp_path / name, pixel_scores(*changes)))[0][1]
    table = pixel_scores()
    for nats, spread, verdict in ((2000.0, 9.0, "fails"), (1190.0, 9.0, "open"), (1210.0, 9.0, "open")):
        bounds = {"cross_entropy_low": nats - spread, "cross_entropy_high": nats + spread}
        changed = replace(table, rows=(replace(table.rows[0], cross_entropy=nats, **bounds), *table.rows[1:]))
        assert said(results_of(tmp_path / str(nats), changed))[0][0] == verdict


def test_what_was_not_measured_is_not_claimed(tmp_path: Path) -> None:
    nothing = replace(pixel_scores(), rows=pixel_scores().rows[1:])
    assert said(results_of(tmp_path, nothing))[0] == ("open", "No open loop figure was measured. ")


def test_the_ledger_is_added_up(tmp_path: Path) -> None:
    text = next(text for _, text in said(results_of(tmp_path, records())) if "videos" in text)
    assert "Of 62 videos, 60 are whole, 1 partial, 1 rejected." in text
    assert "2,220 expected = 2,041 decoded + 0 dropped + 179 missing" in text
    assert "cop" not in text
    run = FakeRun(tmp_path / "copies")
    run.add("index", facts={"num_duplicates": 3})
    run.add("percepts", records())
    assert "1 rejected. 3 are copies of others." in next(text for _, text in said(read_results(run.view)))


def test_an_index_alone_claims_no_frames(tmp_path: Path) -> None:
    promised = [replace(r, frames_decoded=None, frames_dropped=None, frames_missing=None) for r in records()]
    text = next(text for _, text in said(results_of(tmp_path, promised, Index)) if "videos" in text)
    assert "Frames were not counted" in text


def test_markdown_shows_a_text_as_it_is() -> None:
    """By markdown-it, and by showdown in MLflow's pages, which takes a backslash before < for a character."""
    text = r"single frame < LSTM > a_b *c* [d](e) `f` | \\g # &lt; & <b>"
    assert html.unescape(MarkdownIt().renderInline(escape_markdown(text))) == text
    assert r"\<" not in escape_markdown(text)


def test_reuse_is_counted(tmp_path: Path) -> None:
    assert said(read_results(demo(tmp_path / "a").view))[-1][1].startswith(
        "8 stages made in 1 min 58 s of work, 3 reused."
    )
    run = FakeRun(tmp_path / "b")
    run.add("one", made=False, seconds=90.0)
    assert said(read_results(run.view))[-1][1].startswith("Nothing was made anew: 1 stage reused, 1 min 30 s")
