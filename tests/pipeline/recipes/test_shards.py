"""Tar shards as video2dataset and webdataset write them, from the files on a disk to a pretrained encoder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.run import main as run
from pipeline.core.errors import SourceError
from pipeline.engine.store import Store
from stages.video.ledger import read_records
from tests.pipeline.test_secrets import SMALL
from tests.stages.test_extract import encode


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    """Writes samples as the TarWriter of webdataset does: its files in a row, times with fractions (pax headers)."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w|") as archive:
        for key, sample in samples.items():
            for suffix, data in sorted(sample.items()):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime, info.mode = len(data), 1_764_239_000.123456, 0o444
                info.uname = info.gname = "bigdata"
                archive.addfile(info, io.BytesIO(data))


def write_video2dataset(folder: Path, shard: int, clips: list[bytes]) -> None:
    """Writes a shard of two clips a video, with its Parquet file and its statistics."""
    samples, rows = dict[str, dict[str, bytes]](), list[dict[str, Any]]()
    for number, clip in enumerate(clips):
        key = f"{shard:05}{number // 2:04}_{number % 2:05}"
        row = {
            "url": f"https://www.youtube.com/watch?v=AAAAAAAA{shard}{number // 2:02}",
            "caption": f"somebody does number {number} of {shard}",
            "label": ("walk", "run")[number % 2],
            "key": key,
            "status": "success",
            "error_message": None,
            "clips": [[float(10 * (number % 2)), float(10 * (number % 2) + 10)]],
        }
        text = str(row["caption"]).encode()
        samples[key] = {"mp4": clip, "txt": text, "json": json.dumps(row, indent=4).encode()}
        rows.append(row)
    write_tar(folder / f"{shard:05}.tar", samples)
    rows.append({**rows[0], "key": f"{shard:05}0099", "status": "failed_to_download", "error_message": "404"})
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard:05}.parquet")
    counts = {
        "count": len(rows),
        "successes": len(clips),
        "failed_to_download": 1,
        "status_dict": {"success": len(clips)},
    }
    (folder / f"{shard:05}_stats.json").write_text(json.dumps(counts, indent=4))


def test_shards_become_an_encoder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clips = []
    for number in range(7):
        encode(tmp_path / f"clips/{number}.mp4", 20, seed=number)
        clips.append((tmp_path / f"clips/{number}.mp4").read_bytes())
    write_video2dataset(tmp_path / "v2d", 0, clips[:4])
    write_video2dataset(tmp_path / "v2d", 1, clips[4:6])
    write_tar(tmp_path / "wds/train-000000.tar", {"sample000": {"mp4": clips[6], "cls": b"3"}})
    store = tmp_path / "store"
    with pytest.raises(
        SourceError, match=r"archives are unpacked where --videos names them, such as --videos .*\*\.tar"
    ):
        run(["youtube", "--videos", str(tmp_path / "v2d"), *SMALL, "--store", str(store)])
    shards = [str(tmp_path / "v2d/*.tar"), str(tmp_path / "wds/*.tar")]
    assert run(["youtube", "--videos", *shards, *SMALL, "--store", str(store)]) == 0
    said = capfd.readouterr().out
    assert "captions" in said

    assert {"unpack", "ingest", "extract", "pretrain", "forecast"} <= {
        m.stage for m in Store.open(str(store)).manifests()
    }
    (ledger,) = store.glob("extract/*/ledger.parquet")
    records = read_records(str(ledger))
    assert [record.label for record in records] == [*("walk", "run") * 3, "3"]
    assert len({record.group for record in records[:6]}) == 3, "clips of a video stay together"
    assert [(record.verdict, record.frames_decoded) for record in records] == [("ok", 20)] * 7

    # The Parquet file beside a shard is a list of its links.
    links = ["--links", str(tmp_path / "v2d/00000.parquet"), "--clip-seconds", "10"]
    assert run(["youtube", *links, *SMALL[1:], "--plan", "--store", str(tmp_path / "other")]) == 0
    assert "about 5 links" in capfd.readouterr().out
