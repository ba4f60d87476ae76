"""The run that most tests of the report and of the terminal look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.reporting.fake_run import FakeRun, demo


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return demo(tmp_path / "store")
