"""A folder of all that breaks decoders, through ingest and extract: every file a row, every row accounted for."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest

from pipeline.core.stage import Context
from stages.convnets.config import ConvnetConfig
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.video.decode import DecodeConfig
from tests.stages.video.clips import encode, moving_square

CONFIG = ExtractConfig(
    convnet=ConvnetConfig(name="pixels", layer="rgb", grid=4, input_px=16),
    decode=DecodeConfig(short_side_px=16, crop_px=16),
)
NAMES = ("! # [ ] ( ) & ; %03d", "line\nbreak", "🎬 film", "http:x::y~", "'\"", "-rf", "memory:x", " space ", "a" * 200)


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A manifest of files that mean harm, and the verdict that each deserves."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    good = encode(
        folder / "good.mp4", moving_square(30), options={"g": "10"}, container_options={"movflags": "faststart"}
    )
    data = good.read_bytes()
    expected = {"good.mp4": "ok"}

    def add(name: str, content: bytes, verdict: str) -> None:
        (folder / name).write_bytes(content)
        expected[name] = verdict

    for name in NAMES:
        add(f"{name}.mp4", data + name.encode(), "ok")  # other bytes each: none is a copy of another
    add("mp4 that is none.mp4", b"Dear diary,\n" * 99, "rejected")
    add("mp4 inside.avi", data + b"avi", "ok")
    add("text.webm", b"#EXTM3U\n#EXTINF:3,\ngood.mp4\n#EXT-X-ENDLIST\n", "rejected")
    add("empty.mp4", b"", "rejected")
    add("header alone.mp4", data[:600], "rejected")
    add("cut.mp4", data[: len(data) * 7 // 10], "partial")
    middle = len(data) * 6 // 10
    add("zeros in the middle.mp4", data[:middle] + bytes(1500) + data[middle + 1500 :], "partial")
    add("wide.y4m", b"YUV4MPEG2 W100000 H400 F25:1 C420jpeg\nFRAME\n" + bytes(60_000_000), "rejected")
    add("huge.y4m", b"YUV4MPEG2 W100000 H100000 F25:1 C420jpeg\nFRAME\n" + bytes(10_000), "rejected")
    screen = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\x00\x00" + bytes(6)
    add("huge.gif", screen + b"," + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\x00\x02\x02\x44\x01\x00;", "rejected")
    encode(folder / "endless.gif", moving_square(8), codec="gif", pixel_format="rgb8", container_options={"loop": "0"})
    expected["endless.gif"] = "ok"
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "to itself.mp4").symlink_to("to itself.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.mp4")
    # A file that opens and gives an I/O error when it is read, for root as well.
    (folder / "io error.mp4").symlink_to("/proc/self/mem")
    for name in ("dangling.mp4", "to itself.mp4", "folder.mp4", "pipe.mp4", "io error.mp4"):
        expected[name] = "rejected"
    return folder, expected


def test_every_file_has_a_verdict_and_the_account_closes(
    hostile: tuple[Path, dict[str, str]], tmp_path: Path, shared_data: Path
) -> None:
    folder, expected = hostile
    given = [str(folder / name) for name in ("folder.mp4", "pipe.mp4")]
    (tmp_path / "odd ones.jsonl").write_text("".join(f'{{"uri": "{uri}"}}\n' for uri in given))
    odd = shared_data / "odd"
    for path in sorted(odd.iterdir())[::5]:
        # Real files harmed as well, beside themselves.
        data = path.read_bytes()
        (folder / f"harmed {path.name}").write_bytes(data[: len(data) // 2] + bytes(500) + data[len(data) // 2 + 500 :])
    sources = (str(folder), str(tmp_path / "odd ones.jsonl"), str(odd))
    index = ingest(IngestConfig(videos=sources), Context.for_test(tmp_path / "index"))
    percepts = extract(CONFIG, Context.for_test(tmp_path / "store"), index=index)
    records, store = percepts.records(), percepts.open()
    rows = {record.uri: record for record in records}
    assert len(rows) == len(records) == len(index.records())
    listed = {str(path) for path in odd.iterdir()} | {str(folder / name) for name in expected}
    assert listed <= set(rows)
    assert {name: rows[str(folder / name)].verdict for name in expected} == expected
    for record in records:
        assert record.reason or record.verdict == "ok", record
        counts = record.frames_decoded, record.frames_dropped, record.frames_missing
        assert all(count is not None and count >= 0 for count in counts), record
        assert sum(count or 0 for count in counts) == record.frames_expected, record
        in_store = len(store.percepts(record.sha256)) if record.sha256 in store.videos else 0
        assert in_store == record.frames_decoded, record
    assert "Input/output error" in rows[str(folder / "io error.mp4")].reason
    shutil.rmtree(folder)
