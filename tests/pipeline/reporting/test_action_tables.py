"""The paper's tables: our cells beside the paper's of the same data, and sentences that follow the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.reporting.action_tables import PRETRAINED, SCRATCH, SINGLE_FRAME, action_tables
from pipeline.reporting.findings import findings
from pipeline.reporting.note import note
from pipeline.reporting.paper_findings import LITTLE, paper_findings, verdict_of
from pipeline.reporting.report import write_report
from pipeline.reporting.results import Results, read_results
from pipeline.reporting.terminal import print_results
from stages.datasets.splits import Coverage
from stages.evaluation.score_table import PairedDifference, ScoreTable
from stages.evaluation.scores import NotEvaluable, scores_of
from stages.finetuning.selection import Selection
from tests.pipeline.reporting.fake_actions import CLASSES, FULL, NUM_CLIPS, SMALL, action_scores, actions, answers
from tests.pipeline.reporting.fake_run import FakeRun, demo


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read_results(actions(tmp_path_factory.mktemp("run")).view)


def scores_of_run(root: Path, table: ScoreTable) -> ScoreTable:
    (result,) = read_results(actions(root, table).view).scores
    return result.content


def test_every_cell_stands_beside_the_paper_s(results: Results) -> None:
    first, third = action_tables(results)
    assert [row.name for row in first.rows] == ["single frame", "LSTM from scratch", "composite"]
    assert [str(row.cells[0].paper) for row in first.rows] == ["None", "None", "75.8"]
    assert len(third.rows) == 7
    composite = next(row for row in third.rows if row.name == "composite")
    small, full = composite.cells
    assert (small.paper, str(full.paper)) == (None, "75.8")
    assert (small.seconds, full.seconds, composite.key) == (47.5, 312.0, "finetune composite-0123456789abcdef")
    assert small.gain is not None
    assert small.gain.worse == "LSTM from scratch"
    assert small.score is not None
    assert small.score.mean == pytest.approx(SMALL["composite"], abs=0.015)
    assert (small.score.over, small.score.num_splits, small.score.num_samplings) == ("splits", 3, 10)
    assert first.rows[2].cells[0].gain == results.scores[0].content.pair("LSTM from scratch", "composite", 0)


def test_other_data_never_stand_beside_the_paper_s_accuracies(tmp_path: Path) -> None:
    table = replace(action_scores(), dataset=None, coverage=())
    for found in action_tables(read_results(actions(tmp_path, table).view)):
        assert not found.is_same_data
        assert all(cell.paper is None for row in found.rows for cell in row.cells)
        assert any(cell.gain is not None for row in found.rows for cell in row.cells)
        assert not found.has_paper


def test_the_page_says_what_was_missing_and_which_settings_were_chosen(tmp_path: Path) -> None:
    view = actions(tmp_path / "run").view
    html = Path(write_report(read_results(view), str(tmp_path))).read_text()
    accuracy = html[html.index("Clips recognised, %") :]
    row = accuracy[accuracy.index("composite<") :].partition("</tr>")[0]
    assert "finetune composite-0123456789abcdef" in row
    assert "5 min 12 s" in row
    assert html.count("split 2: 9,466 of 9,586 training and 3,734 of 3,734 test clips") == 5
    for said in ("Table 1. Action recognition", "Table 3. Which pretraining", "learning rate 0.0003", "yt_1.mp4"):
        assert said in html


def verdicts(scores: ScoreTable) -> dict[str, str]:
    """Verdict by the word that tells the claims apart."""
    words = ("single frames", "from scratch", "ways of pretraining is better than none with 10", "helps more", "alone",
             "conditional decoders")  # fmt: skip
    said = paper_findings(scores)
    return {word: next(f.verdict for f in said if word in f.headline) for word in words}


def test_findings_follow_the_numbers(results: Results, tmp_path: Path) -> None:
    assert verdicts(results.scores[0].content) == {
        "single frames": "holds",
        "from scratch": "holds",
        "ways of pretraining is better than none with 10": "holds",
        "helps more": "holds",
        "alone": "holds",
        "conditional decoders": "open",
    }
    headlines = [finding.headline for finding in findings(results)]
    assert "None of this is a statement about the whole data set." in headlines
    reversed_full = {**FULL, "single frame": 0.80, "composite": 0.70}
    reversed_small = {**SMALL, "composite": 0.60, "conditional autoencoder": 0.70}
    found = verdicts(scores_of_run(tmp_path / "reversed", action_scores(reversed_full, reversed_small)))
    assert {found[word] for word in ("single frames", "from scratch", "alone", "conditional decoders")} == {"fails"}
    assert found["ways of pretraining is better than none with 10"] == "fails"
    same = dict.fromkeys(FULL, 0.7)
    found = verdicts(scores_of_run(tmp_path / "same", action_scores(same, same)))
    assert found["single frames"] == found["from scratch"] == found["alone"] == "open"
    assert LITTLE == 0.01


@pytest.mark.parametrize("num_encoders", [1, 3])
def test_one_encoder_is_spoken_of_as_one(tmp_path: Path, num_encoders: int) -> None:
    """Every sentence about a pretrained row, the line below its table and the note of MLflow are limited to it."""
    table = action_scores()
    summary = tuple(
        replace(score, num_encoders=num_encoders) if score.model in PRETRAINED else score for score in table.summary
    )
    paired = tuple(
        replace(pair, num_encoders=num_encoders) if {pair.worse, pair.better} & {*PRETRAINED} else pair
        for pair in table.paired
    )
    gains = tuple(replace(gain, num_encoders=num_encoders) for gain in table.gains)
    run = actions(tmp_path, replace(table, summary=summary, paired=paired, gains=gains))
    said = [
        f.headline for f in findings(read_results(run.view)) if f.headline.startswith(("In this run", "Not in this"))
    ]
    about_frames = [headline for headline in said if "single frames" in headline]
    others = [headline for headline in said if headline not in about_frames]
    assert len(others) >= 4
    assert about_frames
    assert not any("for this encoder" in headline for headline in about_frames), "nothing was pretrained there"
    assert {"for this encoder" in headline for headline in others} == {num_encoders == 1}
    in_note = note(read_results(run.view), "/report.html")
    assert ("for this encoder" in in_note) == (num_encoders == 1)
    assert ("stand for one encoder each" in in_note) == (num_encoders == 1)


@pytest.mark.parametrize(
    ("low", "high", "p_holm", "expected"),
    [
        (0.01, 0.03, 0.01, "holds"),
        (0.01, 0.03, 0.12, "open"),
        (-0.03, -0.01, 0.01, "fails"),
        (-0.03, -0.01, 0.12, "open"),
        (-0.01, 0.03, None, "open"),
        (-0.03, -0.01, None, "fails"),
    ],
)
def test_one_of_many_comparisons_has_to_be_as_sure_to_fail_as_to_hold(
    low: float, high: float, p_holm: float | None, expected: str
) -> None:
    pair = PairedDifference(
        worse="a", better="b", labels_per_class=4, difference=(low + high) / 2, low=low, high=high, num_samplings=10,
        p_holm=p_holm,
    )  # fmt: skip
    assert verdict_of(pair) == expected


def test_fused_streams_are_table_4(tmp_path: Path) -> None:
    names = ("RGB", "flow", "RGB + flow, mean of log-probabilities")
    found = [
        answers(name, split, 0, [accuracy])
        for name, accuracy in zip(names, (0.758, 0.777, 0.843), strict=True)
        for split in (1, 2, 3)
    ]
    labels = [CLASSES[number % len(CLASSES)] for number in range(NUM_CLIPS)]
    pairs = [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    table = scores_of(found, dict.fromkeys((1, 2, 3), labels), pairs=pairs)
    run = FakeRun(tmp_path)
    for name, seconds in (("finetune composite", 312.0), ("flow finetune composite", 290.0)):
        selection = Selection(arm="composite", choices=())
        run.add(name, selection, stage="finetune", facts={"seconds_at_all": seconds}, config={"arm": "composite"})
    fused = replace(table, weights={}, dataset="UCF-101")
    run.add("fuse", fused, parents=("finetune composite", "flow finetune composite"))
    results = read_results(run.view)
    (fourth,) = action_tables(results)
    assert [(row.key.partition("-")[0], row.cells[0].seconds) for row in fourth.rows] == [
        ("finetune composite", 312.0),
        ("flow finetune composite", 290.0),
        ("fuse", None),
    ]
    assert [str(row.cells[0].paper) for row in fourth.rows] == ["75.8", "None", "None"]
    (finding,) = paper_findings(results.scores[0].content)
    assert finding.verdict == "holds"
    assert "is better than RGB and flow alone (Table 4)" in finding.headline
    assert "Table 4. RGB, flow, and both" in Path(write_report(read_results(run.view), str(tmp_path))).read_text()


def test_flow_stands_beside_the_paper_s_flow(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.add("flow evaluate", action_scores())
    (first,) = action_tables(read_results(run.view))
    assert first.title == "Table 1. Action recognition by optical flow"
    assert [str(row.cells[0].paper) for row in first.rows] == ["None", "None", "None"]
    run.add("flow evaluate of HMDB-51", replace(action_scores(), dataset="HMDB-51"))
    found = action_tables(read_results(run.view))[-1]
    assert [row.cells[0].paper for row in found.rows] == [None, None, None]


def test_a_run_that_could_judge_nothing_shows_its_cells_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [
        NotEvaluable(arm, CLASSES, count, 2) for arm in (SINGLE_FRAME, SCRATCH, "composite") for count in (1, 10, 0)
    ]
    coverage = (
        Coverage(name="UCF-101", number=1, num_train=0, num_official_train=9537, num_test=6, num_official_test=3783),
        Coverage(name="UCF-101", number=2, num_train=6, num_official_train=9586, num_test=0, num_official_test=3734),
    )
    covered = {"dataset": "UCF-101", "num_clips": 6, "num_official_clips": 13320, "coverage": coverage}
    view = actions(tmp_path / "run", replace(scores_of(cells, {}), **covered)).view
    html = Path(write_report(read_results(view), str(tmp_path))).read_text()
    assert html.count("6 of the 13,320 clips of UCF-101 were there (0.045%)") >= 3
    assert "(test clips only: it judges nothing); split 2" in html
    assert "Table 1. Action recognition, UCF-101" in html
    print_results(read_results(view), Console(width=150))
    said = capsys.readouterr().out
    assert "Nothing could be judged: no split has training and test clips that are there." in said
    assert "In this run as in the paper" not in html + said


def test_a_run_of_three_arms_has_no_tables(tmp_path: Path) -> None:
    results = read_results(demo(tmp_path).view)
    assert action_tables(results) == ()
    assert "holds" in findings(results)[0].headline
