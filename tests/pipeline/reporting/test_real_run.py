"""The report of a run whose artifacts real stages wrote: the demo made small, in this process and without Ray."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.running.recipe_options import parse
from pipeline.core.stage import Artifact, Context, config_dict
from pipeline.engine.plan import Node
from pipeline.recipes.recipe import load_recipe
from pipeline.reporting.introduction import introduction
from pipeline.reporting.report import write_report
from pipeline.reporting.results import Results, read_results
from pipeline.reporting.view import NodeView, RunView
from tests.pipeline.small_demo import SMALL_DEMO


class InProcessRun:
    """Makes the nodes of a plan one after the other, each in a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.artifacts: dict[str, Artifact] = {}
        self.views: list[NodeView] = []

    def make(self, node: Node) -> None:
        """Makes a node whose parents are made."""
        uri = str(self.root / node.stage.name / node.key)
        facts: dict[str, int | float | str] = {}
        context = Context(uri=uri, store_uri=str(self.root), key=node.key, source=node.name, facts=facts)
        inputs = {edge: self._artifact(value) for edge, value in node.inputs.items()}
        self.artifacts[node.name] = artifact = node.stage.function(node.config, context, **inputs)
        self.views.append(
            NodeView(
                name=node.name, stage=node.stage.name, key=node.key, state="made", reason="never made",
                artifact=artifact, seconds=1.0, num_bytes=1, num_files=1, facts=facts, mlflow_run_id=None,
                config=config_dict(node.config), parents=tuple(dict.fromkeys(parent.name for parent in node.parents)),
            )
        )  # fmt: skip

    def _artifact(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._artifact(node) for node in value)
        return None if value is None else self.artifacts[value.name]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    root = tmp_path_factory.mktemp("run")
    recipe = load_recipe("demo")
    plan = recipe.build(parse(recipe, [*SMALL_DEMO[1:], "--store", str(root)]))
    run = InProcessRun(root)
    for node in plan.nodes:
        run.make(node)
    return RunView(
        recipe="demo", title=recipe.summary, command="percepts run demo", started_at="2026-03-01T10:00:00+00:00",
        seconds=60.0, commit=None, dirty=None, store_uri=str(root), tracking_uri="", nodes=tuple(run.views),
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(view: RunView) -> Results:
    return read_results(view)


@pytest.fixture(scope="module")
def text(view: RunView, tmp_path_factory: pytest.TempPathFactory) -> str:
    page = Path(write_report(read_results(view), str(tmp_path_factory.mktemp("report")))).read_text()
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)))


def test_every_kind_of_result_is_found(results: Results) -> None:
    assert [result.name for result in results.scores] == ["evaluate"]
    assert [result.name for result in results.forecasts] == ["forecast"]
    assert [result.name for result in results.histories] == ["pretrain"]
    assert [node.name for node in results.extractions] == ["extract"]
    assert [len(gallery) for gallery in results.galleries] == [2]
    assert results.selections == results.duplicates == results.pixel_scores == ()
    assert results.videos.num_videos == 32


def test_the_numbers_of_the_stages_are_on_the_page(results: Results, text: str) -> None:
    table = results.scores[0].content
    assert table.models == ("single frame", "LSTM from scratch", "LSTM pretrained")
    for score in table.summary:
        assert f"{100 * score.mean:.1f} {100 * score.low:.1f} to {100 * score.high:.1f}" in text
    for name, mean in results.forecasts[0].content.means.items():
        assert f"{name} {mean:.1f}" in text
    videos = results.videos
    assert videos.frames("expected") == videos.frames("decoded") == 1088
    assert "1,088 frames became percepts" in text
    assert "32 32 0 0 1,088 1,088 0 0" in text
    assert not re.search(r"\b(None|nan|inf)\b", text)


def test_the_introduction_says_what_was_run(results: Results) -> None:
    subjects = [line.subject for line in introduction(results)]
    assert subjects == ["Percepts", "Task", "Models", "Videos"]
