"""Decoding in processes: the events of the thread beside them, to the byte, whatever the videos do to a process."""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import threading
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stages.convnets.convnet import ConvnetConfig
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.extraction.decode_processes import NUM_SLOTS, DecodeProcesses, chunk_bytes
from stages.extraction.decode_queue import (
    CHUNK_FRAMES,
    DecodeQueue,
    DecodeSource,
    TimedEvent,
    Video,
    decode_measured,
    rejected,
)
from stages.extraction.shard_extractor import ShardExtractor
from stages.extraction.shard_task import ShardTask
from stages.percepts.shards import VideoResult, directory
from stages.video import decode, scan
from stages.video.chunks import CHUNK_BYTES
from stages.video.decode import DecodeConfig
from stages.video.limits import Limits
from tests.stages.video.clips import encode, moving_square
from tests.stages.video.sabotage import install_below

CONFIG = DecodeConfig(short_side_px=64, crop_px=64)
LIMITS = Limits(max_stall_s=3.0, max_memory_bytes=256 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos longer than all slots of a process, one that is damaged, and one that is none."""
    made = tmp_path_factory.mktemp("videos")
    for number in range(4):
        encode(made / f"sound-{number}.mp4", moving_square(CHUNK_FRAMES * (NUM_SLOTS + 2) + number))
    damaged = bytearray((made / "sound-1.mp4").read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 400] = bytes(400)
    (made / "damaged.mp4").write_bytes(damaged)
    (made / "none.mp4").write_bytes(b"no video")
    return made


def videos_in(folder: Path) -> list[Video]:
    return [Video(hashlib.sha256(path.read_bytes()).hexdigest(), str(path), 7) for path in sorted(folder.glob("*.mp4"))]


def digests(videos: list[Video], source: DecodeSource, num_decoders: int) -> dict[str, str]:
    """Of all events of each video."""
    digest_of = {video.uri: hashlib.sha256() for video in videos}
    with DecodeQueue(videos, source, num_decoders=num_decoders) as decoding:
        while (item := decoding.next()) is not None:
            video, event = item
            if isinstance(event, VideoResult):
                digest_of[video.uri].update(repr(event).encode())
            else:
                for column in (event.frames_NHWC, event.index_N, event.pts_us_N, event.segment_N):
                    digest_of[video.uri].update(column.tobytes())
    return {uri: digest.hexdigest() for uri, digest in digest_of.items()}


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, crop_px=None),
        DecodeConfig(short_side_px=64, crop_px=64, flow="dis", flow_stack=2),
    ],
    ids=["rgb", "whole frames", "flow"],
)
def test_events_are_those_of_a_thread(folder: Path, config: DecodeConfig) -> None:
    videos = videos_in(folder)
    expected = digests(videos, partial(decode_measured, config, LIMITS), 1)
    assert len(set(expected.values())) == len(videos)
    processes = DecodeProcesses(config, LIMITS, num_processes=2)
    # More decoders than processes wait their turn.
    assert digests(videos, processes, 3) == expected
    assert digests(videos, processes, 2) == expected


def test_a_shard_has_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    config = ExtractionConfig(
        convnet=ConvnetConfig(name="pixels", layer="rgb", grid=4, input_px=64), decode=CONFIG, limits=LIMITS
    )
    extractor = extractor_of(config)
    path = f"{directory(extractor.fingerprint)}/0.parquet"
    files = []
    for source in (None, DecodeProcesses(CONFIG, LIMITS, num_processes=2)):
        store = tmp_path / str(len(files))
        extract = ShardExtractor(
            config, extractor, str(store), device="cpu", num_threads=1, num_decoders=2, source=source
        )
        extract(ShardTask(path, tuple(videos_in(folder))))
        files.append({found.relative_to(store): found.read_bytes() for found in store.rglob("*") if found.is_file()})
    assert files[0] == files[1]
    assert len(files[0]) == 2


def test_deadly_videos_cost_themselves_alone(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, how in enumerate(("hangs-with-lock", "crashes", "grows")):
        encode(tmp_path / f"decode-{how}.mp4", moving_square(10 + number))
    (tmp_path / "sound.mp4").write_bytes((folder / "sound-0.mp4").read_bytes())
    monkeypatch.setattr(sys, "path", [*sys.path])
    for module in (scan, decode):
        monkeypatch.setattr(module, "decode_packet", module.decode_packet)  # brings it back at the end
    install_below()
    outcomes = {}
    frames = 0
    processes = DecodeProcesses(CONFIG, LIMITS, num_processes=2)
    with DecodeQueue(videos_in(tmp_path), processes, num_decoders=2) as decoding:
        while (item := decoding.next()) is not None:
            video, event = item
            if isinstance(event, VideoResult):
                outcomes[Path(video.uri).stem] = event
            else:
                frames += len(event.index_N)
    assert outcomes["sound"].verdict == "ok"
    assert frames == outcomes["sound"].frames_decoded
    reasons = {
        "hangs-with-lock": "gave no sign of life for 3 s (max_stall_s), twice",
        "crashes": "died twice: Segmentation fault",
        "grows": f"took more memory than max_memory_bytes = {256 << 20}",
    }
    for how, reason in reasons.items():
        assert outcomes[f"decode-{how}"].verdict == "rejected"
        assert reason in outcomes[f"decode-{how}"].reason


def test_videos_go_elsewhere_while_every_process_is_busy(folder: Path) -> None:
    sent = []
    lock = threading.Lock()

    def elsewhere(video: Video) -> Generator[TimedEvent, None, None]:
        with lock:
            sent.append(video)
        yield TimedEvent(rejected(0, "elsewhere", final=True), 0.0)

    videos = [video for video in videos_in(folder) if "sound" in video.uri]
    source = DecodeProcesses(CONFIG, LIMITS, num_processes=1, elsewhere=elsewhere)
    busy = source(videos[0])
    assert not isinstance(next(busy).event, VideoResult)
    (away,) = source(videos[1])
    assert isinstance(away.event, VideoResult)
    assert away.event.reason == "elsewhere"
    busy.close()
    assert not isinstance(next(source(videos[1])).event, VideoResult)
    assert sent == [videos[1]]


def test_processes_end_with_the_source(folder: Path) -> None:
    source = DecodeProcesses(CONFIG, LIMITS, num_processes=1)
    assert sum(1 for _ in source(videos_in(folder)[0])) > 1
    before = children()
    assert before
    del source
    gc.collect()
    assert children() < before


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_slot_holds_a_chunk() -> None:
    assert chunk_bytes(DecodeConfig()) == CHUNK_FRAMES * 224 * 224 * 3
    assert chunk_bytes(DecodeConfig(crop_px=None)) == CHUNK_BYTES
    flow = DecodeConfig(flow="dis", flow_stack=10)
    assert chunk_bytes(flow) == np.prod((CHUNK_FRAMES, 224, 224, 20))
