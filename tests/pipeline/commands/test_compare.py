"""`percepts compare` on two runs, and the MLflow that commands find by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands import compare as compare_command
from pipeline.core.errors import UsageError
from pipeline.core.model_uris import resolve, store_tracking_uri
from pipeline.engine.store import Store
from tests.pipeline.engine.tracked_runs import Tracked, plan_of, run


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


def test_no_mlflow_is_begun_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"MLFLOW_TRACKING_URI is not set, and .*\.percepts/mlflow\.db does not exist"):
        resolve("models:/walks@best")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    assert store_tracking_uri(str(tmp_path)) == "http://tracking.example"
