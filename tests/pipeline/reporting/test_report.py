"""The page and the terminal: numbers appear, names cannot do harm, what a run lacks has no section."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.core.errors import CorruptArtifact
from pipeline.core.stage import Estimate
from pipeline.engine.plan import Plan
from pipeline.engine.status import Step
from pipeline.engine.store import Manifest, Output, Store
from pipeline.reporting.report import MAX_BAD_VIDEOS, fact, write_report
from pipeline.reporting.results import read_results
from pipeline.reporting.view import NodeView, RunView
from stages.evaluation.artifacts import SCORES_FILE, Scores
from stages.figures.gallery import Figure
from stages.video.artifacts import Index
from tests.pipeline.engine.toy_stages import CountConfig, SumConfig, Total, add, count
from tests.pipeline.reporting.fake_run import (
    CLASSES,
    MEANS,
    Content,
    FakeRun,
    demo,
    forecast,
    history,
    picture,
    pixel_scores,
    records,
    scores,
    terminal,
    without_intervals,
)

HOSTILE = "<script>alert(1)</script>\"'&\n\x1b[2J 🎬"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps the text, the elements and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for name, key, value in self.attributes if (name, key) == (tag, attribute)]


def written(view: RunView, root: Path) -> str:
    uri = write_report(read_results(view), str(root / "reports"))
    assert uri.endswith("/reports/report.html")
    return Path(uri).read_text()


def test_every_number_of_the_comparison_is_on_the_page_and_in_the_terminal(run: FakeRun, tmp_path: Path) -> None:
    page, printed = Page(written(run.view, tmp_path)).text, terminal(run.view)
    for row in scores().summary:
        assert f"{100 * row.mean:.1f} {100 * row.low:.1f} to {100 * row.high:.1f}" in page
        assert f"{100 * row.mean:.1f} ± {50 * (row.high - row.low):.1f}" in printed
    for row in scores().paired:
        assert f"{100 * row.difference:+.1f} {100 * row.low:+.1f} to {100 * row.high:+.1f}" in page
    for name, mean in forecast().means.items():
        assert f"{name} {mean:.1f}" in page
        assert f"{mean:.1f}" in printed
    assert "2,220 2,041 0 179" in page
    assert "chance 12.5%" in page
    assert "/videos/half.mp4 partial damaged after 4.84 s" in page


def test_the_best_of_each_column_is_bold(run: FakeRun, tmp_path: Path) -> None:
    html = written(run.view, tmp_path)
    bold = re.findall(r'<td class="n best">([\d.]+)', html)
    summary = scores().summary
    best = [max(row.mean for row in summary if row.labels_per_class == n) for n in (1, 2, 5, 10)]
    assert bold == [f"{100 * mean:.1f}" for mean in best]


@pytest.mark.parametrize(
    ("tracking_uri", "expected"),
    [
        ("http://ann:secret@tracker.example:5000/", "http://tracker.example:5000/#/experiments/1/runs/2"),
        ("sqlite:////store/mlflow.db", "http://127.0.0.1:5000/#/experiments/1/runs/2"),
    ],
)
def test_the_page_links_to_the_run_and_shows_no_password(
    run: FakeRun, tmp_path: Path, tracking_uri: str, expected: str
) -> None:
    view = replace(run.view, tracking_uri=tracking_uri, mlflow_page="#/experiments/1/runs/2")
    html = written(view, tmp_path)
    assert expected in Page(html).values("a", "href")
    assert "secret" not in html


def test_the_page_needs_nothing_but_itself(run: FakeRun, tmp_path: Path) -> None:
    html = written(replace(run.view, tracking_uri="http://tracker.example:5000"), tmp_path)
    page = Page(html)
    sources = page.values("img", "src")
    assert len(sources) == 2
    assert all(source.startswith("data:image/") for source in sources)
    assert all(target.startswith("#") for target in page.values("a", "href"))
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == page.tags["object"] == 0
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not [value for _, _, value in page.attributes if "//" in value and not value.startswith("data:")]
    anchors = {target[1:] for target in page.values("a", "href")}
    assert anchors <= {value for _, name, value in page.attributes if name == "id"}


def test_every_drawing_and_picture_says_what_it_shows(run: FakeRun, tmp_path: Path) -> None:
    page = Page(written(run.view, tmp_path))
    drawings = page.values("svg", "role")
    assert len(page.values("svg", "aria-label")) == len(drawings) > 5
    assert page.tags["desc"] == len(drawings)
    assert all(page.values("img", "alt"))
    assert page.values("html", "lang") == ["en"]


def test_equal_runs_give_equal_bytes(run: FakeRun, tmp_path: Path) -> None:
    assert written(run.view, tmp_path / "a") == written(run.view, tmp_path / "b")
    assert terminal(run.view) == terminal(run.view)


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    names = (*CLASSES[:-1], HOSTILE)
    bad = [replace(record, uri=f"/v/{HOSTILE}", reason=HOSTILE) for record in records(0)]
    contents: list[Content] = [
        scores({**MEANS, HOSTILE: (0.3, 0.5, 0.6, 0.8)}, names),
        replace(forecast(), unit=HOSTILE),
        replace(pixel_scores(), protocol=HOSTILE),
        [Figure("a.png", HOSTILE, HOSTILE, picture())],
        bad,
    ]
    for number, content in enumerate(contents):
        run.add(f"node {number}", content, facts={HOSTILE: HOSTILE}, config={HOSTILE: [HOSTILE]})
    nodes = tuple(replace(node, name=HOSTILE, reason=HOSTILE, mlflow_run_id=HOSTILE) for node in run.nodes)
    html = written(replace(run.view, title=HOSTILE, command=HOSTILE, store_uri=HOSTILE, nodes=nodes), tmp_path)
    page = Page(html)
    assert page.tags["script"] == 0
    assert "\x1b" not in html
    assert "<script>alert(1)</script>" in page.text
    assert "🎬" in page.text
    printed = terminal(replace(run.view, nodes=nodes))
    assert "\x1b" not in printed
    assert "<script>" in printed


@pytest.mark.parametrize(
    ("content", "present"),
    [
        (None, set()),
        (scores(), {"Accuracy", "Beside the paper"}),
        (history(), {"Training"}),
        (forecast(), {"Predicting the future"}),
        (pixel_scores(), {"Predicting pixels", "Beside the paper"}),
        (records(), {"Videos and percepts"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_run_lacks_has_no_section(content: Content, present: set[str], tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    run.add("node", content)
    headings = set(re.findall(r"<h2>(.*?)</h2>", written(run.view, tmp_path)))
    assert headings == {"What was reused and what was made", "Provenance"} | present
    assert terminal(run.view)


def test_an_index_without_a_ledger_has_promises_only(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    run.add("ingest", records(), kind=Index)
    text = Page(written(run.view, tmp_path)).text
    section = text[text.index("Videos and percepts") :]
    assert "2,220 not decoded" in section


def test_a_run_without_nodes_is_still_a_page(tmp_path: Path) -> None:
    assert "Provenance" in Page(written(FakeRun(tmp_path / "store").view, tmp_path)).text


def test_several_nodes_of_a_kind_are_all_shown(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    for name in ("first", "second"):
        for result in (scores(), history(), forecast()):
            run.add(f"{name} {type(result).__name__}", result)
    html = written(run.view, tmp_path)
    assert html.count("Clips recognised, %") == 2
    assert "Loss of first TrainingHistory" in html
    assert "Loss of second TrainingHistory" in html


def test_protocols_and_data_sets_are_never_mixed(tmp_path: Path) -> None:
    def page(name: str, *arguments: str) -> str:
        run = FakeRun(tmp_path / name)
        run.add("pixels", pixel_scores(*arguments))
        text = Page(written(run.view, tmp_path / name)).text
        assert ("350.2" in text[: text.find("Beside the paper")]) is False
        return text.partition("Beside the paper")[0]

    open_loop, forced, patches = page("a"), page("b", "teacher forced"), page("c", "open loop", "squared error/frame")
    assert {number: number in open_loop for number in ("341.2", "285.2", "87.6", "208.1")} == {
        "341.2": True, "285.2": True, "87.6": False, "208.1": False,
    }  # fmt: skip
    assert {number: number in forced for number in ("341.2", "285.2", "87.6")} == {
        "341.2": False, "285.2": False, "87.6": True,
    }  # fmt: skip
    assert {number: number in patches for number in ("341.2", "285.2", "208.1")} == {
        "341.2": False, "285.2": False, "208.1": False,
    }  # fmt: skip
    assert "not measured" in open_loop


def test_teacher_forced_figures_have_a_table_of_their_own(tmp_path: Path) -> None:
    run, table = FakeRun(tmp_path / "store"), pixel_scores()
    rows = (
        replace(table.rows[0], teacher_forced_cross_entropy=150.25, reconstruction_cross_entropy=99.5),
        replace(table.rows[1], reconstruction_cross_entropy=88.5),
    )
    run.add("pixels", replace(table, rows=rows, num_test_sequences=500))
    text = Page(written(run.view, tmp_path)).text
    section = text[text.index("Predicting pixels") : text.index("Beside the paper")]
    open_loop, forced = section.split("pixels: teacher forced, nats/frame")
    assert ("331.4" in open_loop, "150.2" in open_loop, "87.6" in open_loop) == (True, False, False)
    assert ("331.4" in forced, "150.2" in forced, "87.6" in forced, "341.2" in forced) == (False, True, True, False)
    assert "predicts nothing 88.5" in open_loop
    assert "500 test sequences" in open_loop


def test_squared_errors_of_patches_stand_with_and_without_the_half(tmp_path: Path) -> None:
    run, table = FakeRun(tmp_path / "store"), pixel_scores("open loop", "squared error/frame")
    rows = (replace(table.rows[0], squared_error=210.4), table.rows[1])
    run.add("pixels", replace(table, rows=rows))
    assert "210.4 105.2" in Page(written(run.view, tmp_path)).text


def test_one_sampling_has_no_interval_anywhere(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    run.add("evaluate", without_intervals(scores()))
    html = written(run.view, tmp_path)
    assert "one sampling" in html
    assert 'class="interval"' not in html
    assert not re.search(r"\b(inf|nan|None)\b", Page(html).text + terminal(run.view))


def test_recalled_figures_of_the_paper_stand_in_one_section(run: FakeRun, tmp_path: Path) -> None:
    text = Page(written(run.view, tmp_path)).text
    section = text[text.index("Beside the paper") :]
    assert "UCF-101 small +3.3" in section
    assert [number in section for number in ("72.2", "67.0", "84.3", "34.3")] == [True] * 4
    assert "75.8" not in text[: text.index("Beside the paper")]


def test_nothing_is_said_to_be_from_memory(run: FakeRun, tmp_path: Path) -> None:
    run.add("pixels", pixel_scores())
    text = Page(written(run.view, tmp_path)).text
    assert "memory" not in text
    assert "~" not in text


def test_the_percepts_of_a_run_are_described_with_units(run: FakeRun, tmp_path: Path) -> None:
    text = Page(written(run.view, tmp_path)).text
    section = text[text.index("Videos and percepts") : text.index("Where every frame went")]
    for figure in ("2,041 frames", "640 numbers", "2.6 MB", "1,280 bytes a frame", "92 a second", "2 workers"):
        assert figure in section


def test_long_lists_of_bad_videos_are_cut_with_a_count(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    song = records(0)[-1]
    run.add("extract", [replace(song, uri=f"/v/song{i}.mp3") for i in range(MAX_BAD_VIDEOS + 7)])
    text = Page(written(run.view, tmp_path)).text
    assert f"Bad videos: {MAX_BAD_VIDEOS + 7}" in text
    assert text.count("/v/song") == MAX_BAD_VIDEOS
    assert len(terminal(run.view).splitlines()) < 30


def test_a_video_of_index_and_ledger_counts_once(run: FakeRun, tmp_path: Path) -> None:
    text = Page(written(run.view, tmp_path)).text
    assert "Of 62 videos" in text
    assert text.count("/videos/song.mp4") == 1


def test_a_picture_too_large_for_the_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.reporting.results.MAX_PICTURE_BYTES", 100)
    text_and_tags = Page(written(demo(tmp_path / "store").view, tmp_path))
    assert text_and_tags.tags["img"] == 0
    assert "Too large for this page" in text_and_tags.text
    assert "visualize/strip.png" in text_and_tags.text


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"[NaN]", b'{"cells": []}', b'{"class_names": 3}', b'{"num_test_clips": "many"}']
)
def test_a_result_that_is_none_is_named(content: bytes, tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    artifact = Scores(str(run.add("evaluate", kind=Scores)))
    Path(artifact.path(SCORES_FILE)).write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"evaluate/scores\.json"):
        write_report(read_results(run.view), str(tmp_path))


def test_a_wide_plan_is_summed_up(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "store")
    for i in range(60):
        run.add(f"stage {i}", parents=(f"stage {i - 1}",) if i else ())
    assert "48 more" in terminal(run.view)
    assert "<svg" not in written(run.view, tmp_path)


def test_facts_are_read_by_their_names() -> None:
    assert fact("num_bytes", 1536) == "1.5 kB"
    assert fact("seconds", 75) == "1 min 15 s"
    assert fact("num_frames", 20411) == "20,411"
    assert fact("frames_per_second", 92.4321) == "92.43"
    assert fact("layer", "pool") == "pool"
    assert fact("resumed", True) == "True"


def test_a_view_is_made_from_a_step(tmp_path: Path) -> None:
    plan = Plan("toy")
    source = plan.add(count, CountConfig())
    node = plan.add(add, SumConfig(), name="total", parts=[source, source])
    store = Store.open(str(tmp_path / "store"), create=True)
    manifest = Manifest(
        stage="add", version=1, key=node.key, name="total", recipe="toy", config={"scale": 1.0}, inputs={},
        outputs={"a": Output(sha256="", num_bytes=3), "b": Output(sha256="", num_bytes=4)}, seconds=2.5,
    )  # fmt: skip
    step = Step(node=node, manifest=None, reason="never made", estimate=Estimate())
    view = NodeView.of(step, manifest, store)
    assert (view.name, view.stage, view.state, view.parents) == ("total", "add", "made", ("count",))
    assert (view.num_bytes, view.num_files, view.seconds) == (7, 2, 2.5)
    assert view.artifact == Total(f"{tmp_path}/store/add/{node.key}", node.key)
    assert NodeView.of(replace(step, manifest=manifest), manifest, store).state == "have"
