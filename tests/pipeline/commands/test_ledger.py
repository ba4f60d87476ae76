"""`percepts ledger`: one row a video of the store, the newest account, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands.ledger import main
from pipeline.engine.store import Manifest, Store
from pipeline.upkeep.inventory import iter_videos
from stages.downloading.link_results import LinkResult, write_round
from stages.percepts.takedowns import Takedown, write_takedown
from stages.video.ledger import VideoRecord, write_records

FOUND = VideoRecord(uri="/v/a.mp4", sha256="a" * 64, size_bytes=1, codec="h264", frames_expected=10, verdict="ok")
BAD = VideoRecord(uri="/v/[red].mp4", sha256="b" * 64, size_bytes=2, verdict="rejected", reason="holds no video stream")
DONE = replace(FOUND, frames_decoded=9, frames_dropped=0, frames_missing=1, verdict="partial", reason="1 of 10")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path / "store"), create=True)
    commit(store, "ingest", "i1", "index.parquet", [BAD, FOUND], "2026-01-01")
    return store


def commit(store: Store, stage: str, key: str, name: str, records: list[VideoRecord], finished_at: str) -> None:
    write_records(f"{store.directory(stage, key)}/{name}", records, store_uri=store.root)
    facts = {"version": 1, "name": stage, "recipe": "test", "config": {}, "inputs": {}}
    outputs = store.outputs(stage, key)
    store.commit(Manifest(stage=stage, key=key, finished_at=finished_at, outputs=outputs, **facts))  # type: ignore[arg-type]


def test_extraction_has_the_last_word(store: Store) -> None:
    assert list(iter_videos(store)) == [BAD, FOUND]
    older = replace(DONE, frames_decoded=8, frames_missing=2)
    commit(store, "extract", "e2", "ledger.parquet", [DONE], "2026-01-03")
    commit(store, "extract", "e9", "ledger.parquet", [older], "2026-01-02")
    write_records(f"{store.directory('extract', 'unfinished')}/ledger.parquet", [older])
    assert list(iter_videos(store)) == [DONE, BAD]


def test_a_video_that_was_taken_down_is_rejected_whatever_its_ledger_says(store: Store) -> None:
    commit(store, "extract", "e", "ledger.parquet", [DONE], "2026-01-03")
    write_takedown(store.root, Takedown(video=FOUND.sha256, at="2026-01-04T00:00:00+00:00", reason="asked for"))
    taken, bad = iter_videos(store)
    assert (taken.uri, taken.verdict, taken.reason) == (FOUND.uri, "rejected", "taken down 2026-01-04: asked for")
    assert (taken.frames_expected, taken.frames_decoded, taken.frames_dropped, taken.frames_missing) == (10, 0, 10, 0)
    assert bad == BAD


def test_json_lines(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", store.root, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = ["uri", "sha256", "codec", "width", "height", "fps"]
    names += ["frames_expected", "frames_decoded", "verdict", "reason"]
    assert [[row[name] for name in names] for row in rows] == [
        ["/v/[red].mp4", "b" * 64, None, None, None, None, 0, None, "rejected", "holds no video stream"],
        ["/v/a.mp4", "a" * 64, "h264", None, None, None, 10, None, "ok", ""],
    ]


def test_table(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    commit(store, "extract", "e", "ledger.parquet", [DONE], "2026-01-03")
    main(["--store", store.root])
    out = capsys.readouterr().out
    assert "/v/[red].mp4" in out
    assert "2 videos: 0 ok, 1 partial, 1 rejected" in out
    assert "of 10 frames expected in 1 extracted videos 9 were decoded, 0 dropped, 1 are missing" in out


def test_links_of_a_download_that_was_killed_are_counted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    results = [LinkResult(status="gone", reason="404"), LinkResult(status="failed", reason="500")]
    write_round(store.root, [(bytes([n]) * 16, result) for n, result in enumerate(results)], ())
    (Path(store.root) / "download/download-of-a-killed-run").mkdir(parents=True)
    main(["--store", store.root, "--why"])
    assert "a download has not ended, and has answers of links: 1 gone, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--json"], ["--why", "--json"]])
def test_a_long_ledger_is_not_held_in_memory(store: Store, flags: list[str]) -> None:
    many = [replace(BAD, uri=f"/v/{number}.mp4", sha256=f"{number:064x}") for number in range(12_000)]
    commit(store, "extract", "e", "ledger.parquet", many, "2026-01-03")
    del many
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        main(["--store", store.root, *flags])
        tracemalloc.start()
        main(["--store", store.root, *flags])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 14e6, "a list of the records alone takes 20 MB"


def test_no_store_is_one_line_and_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.commands", "ledger", "--store", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no percepts store at ")
    assert done.stderr.count("\n") == 1
