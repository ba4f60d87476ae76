"""`percepts compare` on two runs, and the MLflow that commands find by themselves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.commands import compare as compare_command
from pipeline.commands.compare import comparison_of
from pipeline.core.addresses.model_uris import resolve, store_tracking_uri
from pipeline.core.errors import UsageError
from pipeline.engine.store import Store
from pipeline.engine.tracking.runs import download_results, find_results, results_and_those_before
from pipeline.engine.tracking.values import ComparedRun
from pipeline.reporting.comparison import compare, comparison_page
from pipeline.reporting.report import write_report
from pipeline.reporting.results import read_results
from stages.evaluation.score_table import ScoreTable
from tests.pipeline.engine.measured_stages import accuracies
from tests.pipeline.engine.tracked_runs import Tracked, plan_of, run
from tests.pipeline.reporting.fake_run import demo


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(str(tmp_path_factory.mktemp("compared") / "store"), create=True)


@pytest.fixture(scope="module")
def pair(store: Store) -> tuple[Tracked, Tracked]:
    return run(plan_of(0.1), store), run(plan_of(0.2), store)


@pytest.fixture(autouse=True)
def _no_mlflow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_two_runs_side_by_side_in_the_terminal_and_on_a_page(
    pair: tuple[Tracked, Tracked], store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "comparison.html"
    key = next(one.key for one in plan_of(0.2).nodes if one.name == "judge")
    for first, second in (("latest~1", "latest"), (pair[0].tracker.parent_id[:12], key)):
        assert compare_command.main([first, second, "--store", store.root, "--out", str(page)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "config MeasureConfig(skill=0.1) MeasureConfig(skill=0.2)" in said
        assert "accuracy/LSTM pretrained/5 labels 0.35 (0.3 to 0.4) 0.45 (0.4 to 0.5)" in said
        assert "forecast_error/LSTM pretrained 9.9 9.8" in said
        assert "accuracy_low" not in said
        assert "accuracy_by_labels" not in said
    assert compare_command.main(["latest", "latest", "--store", store.root]) == 0
    assert "None." in capsys.readouterr().out.partition("Results")[0], "an empty table says that no setting differs"
    text = page.read_text()
    assert "<td>0.35 (0.3 to 0.4)</td><td>0.45 (0.4 to 0.5)</td>" in text
    assert "http" not in text


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        (["latest"], "1 run was given; a comparison takes at least 2"),
        (["latest", "latest~9"], "latest~9 names no run"),
        (["latest", "nothing-of-this-name"], "no run has this id, key or place in MLflow at sqlite:"),
    ],
)
def test_runs_that_do_not_exist_are_refused(
    pair: tuple[Tracked, Tracked], store: Store, runs: list[str], problem: str
) -> None:
    del pair
    with pytest.raises(UsageError, match=problem):
        compare_command.main([*runs, "--store", store.root])


def test_a_run_that_did_not_finish_is_named_so(pair: tuple[Tracked, Tracked], store: Store) -> None:
    run_id, name = pair[0].tracker.parent_id, pair[0].parent.info.run_name
    for status, shown in (("RUNNING", name), ("KILLED", f"{name} (killed)"), ("FINISHED", name)):
        pair[0].client.update_run(run_id, status)
        (found,) = find_results(store.default_tracking_uri, [run_id])
        assert found.name == shown


def test_no_mlflow_is_begun_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"MLFLOW_TRACKING_URI is not set, and .*\.percepts/mlflow\.db does not exist"):
        resolve("models:/walks@best")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    assert store_tracking_uri(str(tmp_path)) == f"sqlite:///{tmp_path}/runs.db"
    assert not list(tmp_path.iterdir())


def test_differences_are_paired_where_samplings_are_shared(
    pair: tuple[Tracked, Tracked], capsys: pytest.CaptureFixture[str]
) -> None:
    """By SciPy's interval of the differences; where a seed, or a test, is another, nothing is paired."""
    values = [[row.accuracy for row in accuracies(skill) if row.labels_per_class == 5] for skill in (0.1, 0.2)]
    low, high = stats.ttest_rel(values[1], values[0]).confidence_interval(0.95)
    said = f"+{100 * (np.mean(values[1]) - np.mean(values[0])):.1f} (+{100 * low:.1f} to +{100 * high:.1f})"
    first, second = (compared(tracked, skill) for tracked, skill in zip(pair, (0.1, 0.2), strict=True))
    rows = {row.name: row.cells for row in compare([first, second]).paired}
    assert rows["LSTM, pretrained, 5 labels a class"] == ("–", said)
    for other in (
        replace(second, params={"scratch.seed": "7"}),
        replace(second, tests="other"),
        replace(second, tests=""),
    ):
        assert compare([first, other]).paired == ()
    assert capsys.readouterr().out == ""


def compared(tracked: Tracked, skill: float) -> ComparedRun:
    """Returns a run as `percepts compare` reads it, measured by the same test."""
    table = ScoreTable(
        class_names=("up", "down"), num_test_clips=20, chance=0.5, cells=(), samplings=accuracies(skill),
        summary=(), paired=(), confusion={},
    )  # fmt: skip
    return ComparedRun(
        run_id=tracked.tracker.parent_id, name="toy", started_at="2026-01-01T00:00:00", params={},
        metrics=tracked.metrics, tests="one", scores=(table,),
    )  # fmt: skip


def test_scores_are_downloaded_of_the_runs_that_made_them(
    pair: tuple[Tracked, Tracked], store: Store, tmp_path: Path
) -> None:
    del pair
    again = run(plan_of(0.1), store)
    (path,) = download_results(again.tracker.uri, again.tracker.parent_id, "scores.json", str(tmp_path))
    assert ScoreTable.read(path).samplings == accuracies(0.1)


@pytest.mark.parametrize(
    ("recipe", "metric", "paper"),
    [
        ("moving-mnist", "nats/composite conditional future", "341.2"),
        ("moving-mnist", "nats/composite", None),
        ("ucf101", "accuracy/composite/all labels", "0.758"),
        ("ucf101", "accuracy/composite/10 labels", None),
        ("hmdb51", "accuracy/composite/all labels", "0.440"),
        ("demo", "accuracy/composite/all labels", None),
    ],
)
def test_what_the_paper_has_stands_beside(recipe: str, metric: str, paper: str | None) -> None:
    """Only what is confirmed elsewhere, and only for the data that it was measured on."""
    one = ComparedRun(run_id="1", name="a", started_at="2026-01-01", params={}, metrics={metric: 0.5}, recipe=recipe)
    comparison = compare([one, replace(one, run_id="2")])
    assert comparison.results[0].cells == (("0.5", "0.5", paper) if paper else ("0.5", "0.5"))
    assert ("<th>the paper</th>" in comparison_page(comparison)) == (paper is not None)


def test_the_report_compares_a_run_with_the_one_before_it(pair: tuple[Tracked, Tracked], tmp_path: Path) -> None:
    uri, ids = pair[1].tracker.uri, [tracked.tracker.parent_id for tracked in pair]
    runs = results_and_those_before(uri, ids[1])
    assert [one.run_id for one in runs] == ids
    assert [one.run_id for one in results_and_those_before(uri, ids[0])] == ids[:1]
    view = demo(tmp_path / "store").view
    text = Path(write_report(read_results(view), str(tmp_path), comparison_of(uri, runs))).read_text()
    (section,) = re.findall(r'<section id="before">.*?</section>', text, re.DOTALL)
    assert "<td>0.35 (0.3 to 0.4)</td><td>0.45 (0.4 to 0.5)</td>" in section
    assert "<td>accuracy/single frame/5 labels" not in section  # equal in both
    assert "cost/" not in section
    assert 'href="#before"' in text
    assert 'id="before"' not in Path(write_report(read_results(view), str(tmp_path))).read_text()
