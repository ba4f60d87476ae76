"""The whole command against a server that fails in fifteen ways: it ends well, and the next run mends what it can."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.commands.table import main
from pipeline.engine.store import Manifest, Store
from stages.figures.thumbnails import Pictures
from stages.percepts.artifacts import Percepts
from stages.percepts.schema import Extractor
from stages.video import fetch
from stages.video.artifacts import Index
from stages.video.ledger import NOT_READ, VideoRecord
from tests.stages.failing_server import FAILURES, RETRY_AFTER_S, FailingServer, failing_server
from tests.stages.video.clips import encode, moving_square

NUM_GOOD = 30
STALL_S = 3.0
"""Seconds of silence after which the server that stalls is given up."""
PATIENT_S = fetch.STALL_S
SMALL = [
    *("--in-process", "--no-tracking", "--workers", "1", "--held-out", "0", "--limits.max-bytes", "1000000"),
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "16", "--extract.decode.short-side-px", "16", "--extract.decode.crop-px", "16"),
    *("--pretrain.num-units", "2", "--pretrain.num-steps", "1", "--pretrain.batch-size", "2"),
    *("--pretrain.num-frames-in", "2", "--pretrain.num-frames-out", "1", "--pretrain.validation-fraction", "0.1"),
]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Thirty videos, and those at whose URLs the server fails, all of different bytes."""
    folder = tmp_path_factory.mktemp("films")
    names = [f"{number:02}.mp4" for number in range(NUM_GOOD)] + [f"{n}-bad.mp4" for n in range(len(FAILURES))]
    return {name: encode(folder / name, moving_square(5 + number)).read_bytes() for number, name in enumerate(names)}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run in this process sets variables: they go with the test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")


@pytest.fixture
def server(films: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    monkeypatch.setattr(fetch, "PAUSES_S", (0.01,))
    monkeypatch.setattr(fetch, "STALL_S", STALL_S)
    with failing_server(films) as running:
        yield running


@pytest.fixture
def listed(server: FailingServer, tmp_path: Path) -> Path:
    """A list with the failing URLs, and one of a scheme whose package is missing, in the middle of the good ones."""
    good = [f"{server.url}/good/{number:02}.mp4" for number in range(NUM_GOOD)]
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*good[:15], *server.failing("bad.mp4"), *good[15:]]) + "\n")
    return path


class Runs:
    """Runs of one command on one store."""

    def __init__(self, store: Path, videos: Path) -> None:
        self.store = Store.open(str(store), create=True)
        self._arguments = ["youtube", "--store", str(store), "--videos", str(videos), *SMALL]

    def run(self, *more: str) -> dict[str, Manifest]:
        """Returns what a run made anew, by the stage's name."""
        before = {manifest.key for manifest in self.store.manifests()}
        assert main(["run", *self._arguments, *more]) == 0
        return {manifest.name: manifest for manifest in self.store.manifests() if manifest.key not in before}

    def plan(self, capsys: pytest.CaptureFixture[str], *more: str) -> str:
        """Returns what the plan says."""
        capsys.readouterr()
        assert main(["plan", *self._arguments, *more]) == 0
        return " ".join(capsys.readouterr().out.split())


def rows(store: Store, made: dict[str, Manifest], stage: str) -> list[VideoRecord]:
    artifact = {"ingest": Index, "extract": Percepts}[stage]
    return list(artifact(store.directory(stage, made[stage].key)).iter_records())


def black(record: VideoRecord, extractor: Extractor, frames: Sequence[int], side_px: int) -> Pictures:
    return np.zeros((len(frames), side_px, side_px, 3), np.uint8)


def test_failures_are_rows_and_the_next_run_makes_what_was_missing(
    server: FailingServer,
    listed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = Runs(tmp_path / "store", listed)
    server.tells_etags = False  # nothing tells of such a video that it is as it was
    monkeypatch.setattr("stages.figures.percepts.thumbnails", black)  # which fetches videos anew, good ones too
    made = runs.run()
    for stage in ("ingest", "extract"):
        assert Counter(r.verdict for r in rows(runs.store, made, stage)) == {"ok": 30, "rejected": 15}, stage
    reasons = [record.reason for record in rows(runs.store, made, "ingest") if record.verdict == "rejected"]
    for failure, reason in zip(FAILURES, reasons, strict=True):
        is_cut = failure == "says too little"  # which nothing shows until the server is well
        assert reason.startswith(NOT_READ) != is_cut, (failure, reason)
        assert len(reason) > len(NOT_READ), failure
        assert reason.isprintable(), reason
        words = {
            "404": "no such file",
            "loops": "TooManyRedirects",
            "never ends": "max_bytes",
            "sends a page": "a page",
        }
        assert words.get(failure, f"answers {failure}" if failure.isdigit() else "") in reason
    assert "14 videos to look at again" in runs.plan(capsys)

    asked = server.asked_for("good")
    assert runs.run() == {}, "nothing has changed, and nothing is made"
    assert server.asked_for("good") == asked
    assert len(list(runs.store.manifests("ingest"))) == 1

    server.is_well = True
    # A busy machine answers late, and whoever got no header then asks for the body, which this test counts.
    monkeypatch.setattr(fetch, "STALL_S", PATIENT_S)
    again = runs.run()
    assert server.asked_for("good") == asked, "what is there is not fetched again"
    assert {r.verdict for stage in ("ingest", "extract") for r in rows(runs.store, again, stage)} == {"ok"}
    missing = sum(r.frames_expected for r in rows(runs.store, again, "ingest") if "bad" in r.uri)
    assert again["extract"].facts["num_frames_extracted"] == missing
    assert "look" not in runs.plan(capsys)
    assert runs.run() == {}


def test_a_server_that_fails_between_ingest_and_extract(
    server: FailingServer,
    listed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = Runs(tmp_path / "store", listed)
    server.is_well = True

    def fail_from_now_on(self: Index) -> Iterator[VideoRecord]:
        server.is_well = False
        return iter_records(self)

    iter_records = Index.iter_records
    with monkeypatch.context() as patched:
        patched.setattr(Index, "iter_records", fail_from_now_on)
        made = runs.run()
    assert {r.verdict for r in rows(runs.store, made, "ingest")} == {"ok"}
    records = rows(runs.store, made, "extract")
    assert Counter(r.verdict for r in records) == {"ok": 30, "rejected": 15}
    assert all(r.reason.startswith(NOT_READ) for r in records if r.verdict == "rejected")
    assert "15 videos to look at again" in runs.plan(capsys)
    assert runs.run() == {}  # and what was tried in vain is no shard that is complete
    server.is_well = True
    again = runs.run()
    assert set(again) == {"extract", "standardize", "pretrain composite", "visualize"}
    assert {r.verdict for r in rows(runs.store, again, "extract")} == {"ok"}
    assert again["extract"].facts["num_frames_extracted"] == sum(
        r.frames_expected for r in records if r.verdict == "rejected"
    )
    assert runs.run() == {}

    (gallery,) = (made for made in runs.store.manifests("visualize") if made.key == again["visualize"].key)
    shutil.rmtree(runs.store.directory("visualize", gallery.key))
    server.is_down = True
    assert set(runs.run()) == {"visualize"}, "without its pictures, which are no reason to end after the training"
    assert runs.run() == {}
    server.is_down = False
    shown = runs.run()["visualize"]
    assert shown.outputs == gallery.outputs


def test_what_is_about_the_bytes_is_looked_at_again_only_if_asked(
    films: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(4):
        (clips / f"{number}.mp4").write_bytes(films[f"{number:02}.mp4"])
    (clips / "none.mp4").write_bytes(b"Dear diary,\n")
    runs = Runs(tmp_path / "store", clips)
    assert "ingest" in runs.run()
    assert "look" not in runs.plan(capsys)
    assert "1 videos to look at again" in runs.plan(capsys, "--look-again")
    assert runs.run("--look-again") == {}


def test_a_server_is_waited_for_as_long_as_it_asks(server: FailingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", pauses.append)
    with pytest.raises(fetch.UnreadableError, match="429"), fetch.fetched(server.failing("bad.mp4")[4], max_bytes=99):
        raise AssertionError("there is nothing")
    assert pauses == [RETRY_AFTER_S]
