"""The ledger's rows survive the file, and other readers read them."""

from __future__ import annotations

import itertools
import json
import os
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import CorruptArtifact, StoreError
from pipeline.core.parquet import ROW_GROUP_ROWS
from stages.video.ledger import (
    SCHEMA,
    VideoRecord,
    amounts_of,
    read_records,
    read_tables,
    write_records,
)

RECORD = VideoRecord(
    uri="/films/a b.mp4",
    sha256="ab" * 32,
    size_bytes=7,
    codec="h264",
    width=320,
    height=240,
    fps=29.97,
    frames_expected=10,
    frames_decoded=7,
    frames_dropped=1,
    frames_missing=2,
    verdict="partial",
    reason="2 of 10 frames are missing",
    label="run",
)
REJECTED = VideoRecord(
    uri="s3://bucket/b.mp4", sha256="", size_bytes=0, verdict="rejected", reason="there is no such file"
)


def test_rows_come_back_and_bytes_are_stable(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_records(str(tmp_path / name), [RECORD, REJECTED])
    assert read_records(str(tmp_path / "one")) == [RECORD, REJECTED]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_ledger_is_read_in_pieces(tmp_path: Path) -> None:
    """Files of ledgers grow by some 80 bytes a clip, records by a thousand: neither may be in memory whole."""
    path = tmp_path / "ledger.parquet"
    digests = [os.urandom(32).hex() for _ in range(8 * ROW_GROUP_ROWS)]
    write_records(str(path), (replace(RECORD, sha256=digest) for digest in digests))
    tracemalloc.start()
    try:
        for table, start in zip(read_tables(str(path), ["sha256"]), itertools.count(0, ROW_GROUP_ROWS), strict=False):
            assert table["sha256"][0].as_py() == digests[start]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert start == 7 * ROW_GROUP_ROWS
    assert peak < path.stat().st_size / 3


def test_other_readers(tmp_path: Path) -> None:
    write_records(str(tmp_path / "ledger.parquet"), [RECORD, REJECTED])
    query = f"select verdict, sum(frames_missing) from '{tmp_path}/ledger.parquet' group by verdict order by verdict"
    assert duckdb.sql(query).fetchall() == [("partial", 2), ("rejected", None)]


def test_amounts_of_video_are_those_of_pandas(tmp_path: Path) -> None:
    rows = [
        replace(
            RECORD,
            sha256=f"{number:064x}",
            duration_us=1_000_000 * (number + 1),
            part=("train", "test")[number % 2],
            frames_decoded=6 - number,
            frames_dropped=1 + number,
            frames_missing=3,
        )
        for number in range(5)
    ]
    write_records(str(tmp_path / "ledger.parquet"), [*rows, REJECTED])
    ledger = pd.read_parquet(tmp_path / "ledger.parquet")
    parts = {"training": ledger[ledger.part == "train"], "test": ledger[ledger.part == "test"]}
    amounts = amounts_of(read_records(str(tmp_path / "ledger.parquet")), **{k: set(v.sha256) for k, v in parts.items()})
    for use, part in parts.items():
        assert amounts[f"{use}/num_videos"] == len(part)
        assert amounts[f"{use}/num_frames"] == part.frames_decoded.sum()
        assert amounts[f"{use}/hours"] == pytest.approx(part.duration_us.sum() / 3.6e9, abs=1e-4)
    assert amounts["training/digest"] != amounts["test/digest"]
    assert (
        amounts_of(reversed(rows), training=set(parts["training"].sha256))["training/digest"]
        == (amounts["training/digest"])
    )


@pytest.mark.parametrize("root", ["{tmp}", "memory://store"])
def test_videos_of_the_store_are_kept_relative_to_it(tmp_path: Path, root: str) -> None:
    store = root.format(tmp=tmp_path / "store")
    inside = replace(RECORD, uri=f"{store}/synthesize/k/clips/1.mp4")
    uri = f"{store}/ingest/k2/index.parquet"
    write_records(uri, [inside, RECORD, REJECTED], store_uri=store)
    found = read_records(uri)
    assert [record.uri for record in found[1:]] == [RECORD.uri, REJECTED.uri]
    assert found[0].uri == inside.uri
    if "memory" not in store:
        assert pq.read_table(uri).column("uri")[0].as_py() == "../../synthesize/k/clips/1.mp4"


def test_an_account_that_does_not_close_is_no_record() -> None:
    with pytest.raises(AssertionError, match="10 expected, 11 found"):
        replace(RECORD, frames_dropped=2)
    with pytest.raises(AssertionError, match="rejected"):
        replace(RECORD, verdict="rejected")


def test_foreign_and_newer_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    pq.write_table(pa.table({"uri": ["x"]}), tmp_path / "other")
    newer = SCHEMA.with_metadata({"percepts.ledger": "2"})
    pq.write_table(newer.empty_table(), tmp_path / "newer")
    with pytest.raises(CorruptArtifact, match="not a Parquet file"):
        read_records(str(tmp_path / "text"))
    with pytest.raises(CorruptArtifact, match="has columns"):
        read_records(str(tmp_path / "other"))
    with pytest.raises(StoreError, match="use a newer percepts"):
        read_records(str(tmp_path / "newer"))
    assert json.dumps(asdict(RECORD))
