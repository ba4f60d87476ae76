"""Real workers on real Ray, and videos on which FFmpeg hangs, crashes or takes all memory: each costs itself alone."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.session import Session
from pipeline.core.events import Event, Log
from pipeline.core.stage import Context, Resources
from stages.convnets.config import ConvnetConfig
from stages.digits_and_patches import CutPatchesConfig, _cut_all
from stages.extract import ExtractConfig, extract
from stages.ingest import IngestConfig, ingest
from stages.video.decode import DecodeConfig
from stages.video.ledger import VideoRecord
from stages.video.limits import Limits
from tests.stages.video.clips import encode, moving_square
from tests.stages.video.sabotage import install_below

LIMITS = Limits(max_stall_s=3.0, max_memory_bytes=256 << 20)
CONFIG = ExtractConfig(
    convnet=ConvnetConfig(name="pixels", layer="rgb", grid=4, input_px=16),
    decode=DecodeConfig(short_side_px=16, crop_px=16),
    limits=LIMITS,
)


def sabotaged(factory: Callable[[], Any]) -> Any:
    install_below()
    return factory()


def on_ray() -> Any:
    """Workers in which FFmpeg misbehaves. In the stage's own process, where Ray may be used."""
    from cluster.workers import RayWorkers

    @dataclass(frozen=True)
    class Sabotaged(RayWorkers):
        def map(self, factory: Callable[[], Any], items: Sequence[Any], **settings: Any) -> Iterator[Any]:
            return super().map(partial(sabotaged, factory), items, **settings)

    return Sabotaged


def both_stages(videos: str, store: str, is_sabotaged: bool) -> tuple[list[VideoRecord], dict[str, bytes], list[str]]:
    """Final records, percepts by sha256, and what the workers said."""
    said: list[Event] = []
    workers = on_ray()(source="x", emit=said.append) if is_sabotaged else Context.for_test(store).workers
    context = Context.for_test(store, uri=f"{store}/ingest", workers=workers, resources=Resources(num_workers=2))
    index = ingest(IngestConfig(videos=(videos,), limits=LIMITS), context)
    percepts = extract(CONFIG, replace(context, uri=f"{store}/extract"), index=index)
    opened = percepts.open()
    bytes_of = {video: opened.percepts(video).tobytes() for video in opened.videos}
    return percepts.records(), bytes_of, [event.line for event in said if isinstance(event, Log)]


@pytest.mark.ray
def test_hangs_crashes_and_memory_cost_one_video_each(tmp_path: Path, ray_session: Session) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    sound = [f"sound-{number}" for number in range(4)]
    deadly = ["probe-hangs", "probe-crashes", "decode-hangs-with-lock", "decode-crashes", "decode-grows"]
    for number, name in enumerate([*sound, *deadly]):
        encode(videos / f"{name}.mp4", moving_square(10 + number))
    ray_session.start("both", both_stages, str(videos), str(tmp_path / "store"), True)
    while not (ended := ray_session.finished(1.0)):
        pass
    if ended[0].error is not None:
        raise ended[0].error
    records, percepts, said = ended[0].value
    reasons = {Path(record.uri).stem: record.reason for record in records if record.verdict == "rejected"}
    assert {name: reason.removeprefix("the process that decoded it ") for name, reason in reasons.items()} == {
        "probe-hangs": "gave no sign of life for 3 s (max_stall_s), twice",
        "probe-crashes": "died twice: Segmentation fault",
        "decode-hangs-with-lock": "gave no sign of life for 3 s (max_stall_s), twice",
        "decode-crashes": "died twice: Segmentation fault",
        "decode-grows": "took more memory than max_memory_bytes = 268435456",
    }
    assert len([line for line in said if "a worker died on" in line]) == 2
    # Hashed all the same, so that percepts and takedowns can name them.
    for record in records:
        assert record.sha256 == hashlib.sha256(Path(record.uri).read_bytes()).hexdigest()
        assert record.frames_decoded is not None
    # What the second try gave is, to the bit, what an undisturbed extraction of the sound videos gives.
    for name in deadly:
        (videos / f"{name}.mp4").unlink()
    shutil.rmtree(tmp_path / "store")
    _, expected, _ = both_stages(str(videos), str(tmp_path / "alone"), False)
    assert percepts == expected
    assert len(percepts) == len(sound)


def cut_on_ray(videos: Sequence[str], store: str) -> tuple[dict[str, int], list[str]]:
    """Patches of each video, and what was said."""
    said: list[Event] = []
    index = ingest(IngestConfig(videos=tuple(videos)), Context.for_test(store, uri=f"{store}/ingest"))
    workers = on_ray()(source="x", emit=said.append)
    context = Context.for_test(store, uri=f"{store}/cut", source="cut", workers=workers, emit=said.append)
    records = index.records()
    counts = _cut_all(CutPatchesConfig(num_frames=5, patches_per_video=3), context, records)
    by_name = {Path(record.uri).stem: counts[record.sha256] for record in records}
    return by_name, [event.line for event in said if isinstance(event, Log)]


@pytest.mark.ray
def test_cutting_survives_a_deadly_video_too(tmp_path: Path, ray_session: Session) -> None:
    videos = [tmp_path / f"{name}.mp4" for name in ("sound", "decode-crashes")]
    for number, path in enumerate(videos):
        encode(path, moving_square(10 + number))
    ray_session.start("cut", cut_on_ray, list(map(str, videos)), str(tmp_path / "store"))
    while not (ended := ray_session.finished(1.0)):
        pass
    if ended[0].error is not None:
        raise ended[0].error
    counts, said = ended[0].value
    assert counts == {"sound": 3, "decode-crashes": 0}
    (line,) = [line for line in said if line.startswith("nothing is cut out of")]
    assert line.endswith("decode-crashes.mp4: the process that decoded it died twice: Segmentation fault")
