"""What a person sees of two runs in MLflow's pages, in a real browser: `percepts ui`, Debian's chromium, Playwright."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import mlflow
import pytest

from pipeline.engine.store import Store
from pipeline.reporting.report import write_report
from pipeline.reporting.results import read_results
from tests.conftest import ROOT
from tests.pipeline.engine.measured_stages import film
from tests.pipeline.engine.tracked_runs import Tracked, plan_of, run
from tests.pipeline.reporting.fake_run import demo

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PAGE_MS = 400_000
"""The time in which a page of MLflow must be there: seconds on a quiet machine, more beside other tests."""

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt install chromium"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="needs playwright: make setup"),
]


@dataclass(frozen=True)
class Served:
    """Two finished runs, and the address that `percepts ui` prints."""

    address: str
    runs: tuple[Tracked, Tracked]

    @property
    def names(self) -> list[str]:
        return [str(tracked.parent.info.run_name) for tracked in self.runs]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    store = Store.open(str(root / "store"), create=True)
    runs = run(plan_of(0.1, film), store), run(plan_of(0.2, film), store)
    reports = f"{store.root}/reports"
    write_report(read_results(demo(root / "demo").view), reports)
    for tracked in runs:
        tracked.client.log_artifact(tracked.tracker.parent_id, f"{reports}/report.html")
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "pipeline.commands", "ui", "--store", store.root, "--port", "0", "--no-browser"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None
        try:
            yield Served(ui.stdout.readline().strip(), runs)
        finally:
            ui.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> BrowserContext:
    """One cache for all pages: the scripts of MLflow's pages are loaded and compiled once."""
    opened = browser.new_context(viewport={"width": 1500, "height": 1000})
    # MLflow keeps the colours of the first visit, and opens a panel of its assistant.
    opened.add_init_script(
        "localStorage.clear(); localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
    )
    opened.set_default_timeout(PAGE_MS)
    return opened


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    opened = context.new_page()
    yield opened
    opened.close()


def open_runs(page: Page, served: Served, colours: Literal["dark", "light"]) -> None:
    """Opens the list of runs as a visitor who likes these colours."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PAGE_MS)
    page.emulate_media(color_scheme=colours)
    page.goto(served.address)
    for name in served.names:
        expect(page.get_by_role("link", name=name)).to_be_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background)[:3])) < 100) == (colours == "dark")


def test_the_list_of_runs_is_dark_for_who_likes_that(served: Served, page: Page) -> None:
    open_runs(page, served, "dark")


def test_a_person_finds_two_runs_and_compares_them(served: Served, page: Page) -> None:
    from playwright.sync_api import expect

    open_runs(page, served, "light")
    page.get_by_text("film (test of judge)").first.click()
    drawer = page.get_by_role("dialog")
    for text in ("film (test of judge)", "num frames:", "hours:", "017904e8f3578262"):
        expect(drawer.get_by_text(text).first).to_be_visible()
    page.keyboard.press("Escape")

    page.get_by_label("Select all runs").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for text in ("accuracy/LSTM pretrained/5 labels", "0.35", "0.45"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()

    page.goto(served.address.replace("/runs?", "/runs?compareRunsMode=CHART&"))
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text="accuracy/LSTM pretrained/5 labels")
    for name in served.names:
        expect(card.get_by_text(name)).to_be_visible()
    expect(card.locator(".barlayer .point")).to_have_count(2)

    server, _, _ = served.address.partition("#")
    page.goto(server + served.runs[0].tracker.page.replace("?", "/artifacts?"))
    page.get_by_text("report.html").click()
    report = page.frame_locator("iframe")
    expect(report.get_by_text("From video files to a comparison table")).to_be_visible()
