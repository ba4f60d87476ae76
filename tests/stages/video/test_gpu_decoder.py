"""Decoding on a GPU: which videos go there, what a frame that comes from there becomes, and who is refused.

Without a GPU its decoder is played by FFmpeg's own, whose frames are interleaved as the chip's are; whether the chip's
pixels are FFmpeg's is seen only where there is one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel

from pipeline.commands.run import main as run
from pipeline.core.errors import ConfigError, RunError
from pipeline.core.stage import Context, Resources, config_dict
from pipeline.core.workers import ClusterNode, Workers
from stages.extract import extract
from stages.extraction.config import ExtractionConfig, extractor_of
from stages.extraction.decode_queue import IsolatedDecoder, Video, decode
from stages.percepts.shards import VideoResult
from stages.video import container
from stages.video import decode as decoding
from stages.video.container import check_cuda_decoder
from stages.video.decode import DecodeConfig, DecodeReport, VideoDecoder
from stages.video.limits import Limits
from tests.stages.test_extract import CONFIG, index_of
from tests.stages.video.clips import encode, moving_square

ON_GPU = DecodeConfig(short_side_px=32, crop_px=32, hardware="cuda")
NUM_FRAMES = 60


def why_not() -> str:
    """Why nothing can be decoded on a GPU here; empty where it can."""
    try:
        check_cuda_decoder()
    except ConfigError as error:
        return str(error)
    return ""


NO_DECODER = why_not()
without_gpu = pytest.mark.skipif(not NO_DECODER, reason="here is a GPU that decodes")
with_gpu = pytest.mark.skipif(bool(NO_DECODER), reason=f"needs a GPU that decodes: {NO_DECODER}")


def everything(path: Path, **settings: Any) -> tuple[dict[str, bytes], DecodeReport]:
    """The bytes of all columns of a video, and its report."""
    decoder = VideoDecoder(path, settings.pop("config", ON_GPU), **settings)
    chunks = list(decoder)
    names = ("frames_NHWC", "index_N", "pts_us_N", "segment_N")
    return {name: b"".join(getattr(chunk, name).tobytes() for chunk in chunks) for name in names}, decoder.report


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return encode(path, moving_square(NUM_FRAMES), options={"g": "12", "bf": "2"})


@pytest.fixture
def small_videos_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MIN_GPU_LINES", 48)
    monkeypatch.setattr(decoding, "MIN_GPU_FRAMES", 10)


class PlayedGpu:
    """Opens on the CPU what is asked of the GPU; its frames then come interleaved, and with a fault if it has one."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.opened: list[bool] = []
        """Of each pass over a file, whether the GPU was asked for."""
        self.num_frames = 0

    def open(self, *args: Any, on_gpu: bool, **kwargs: Any) -> AbstractContextManager[Any]:
        self.opened.append(on_gpu)
        return container.open_video(*args, **kwargs)

    def decode(self, decoder: Any, packet: Any) -> list[Any]:
        items = container.decode_packet(decoder, packet)
        return list(self.downloaded(items)) if self.opened[-1] else items

    def downloaded(self, items: list[Any]) -> Iterator[Any]:
        for item in items:
            if not isinstance(item, av.VideoFrame):
                yield item
                continue
            self.num_frames += 1
            frame = item.reformat(format="p010le" if "10" in item.format.name else "nv12")
            if self.fault and self.num_frames == 20:
                if self.fault != "lost":
                    yield OSError("the chip failed") if self.fault == "error" else frame.reformat(96, 64)
                continue
            yield frame


@pytest.fixture
def gpu(small_videos_too: None, monkeypatch: pytest.MonkeyPatch) -> PlayedGpu:
    played = PlayedGpu()
    monkeypatch.setattr(decoding, "open_video", played.open)
    monkeypatch.setattr(decoding, "decode_packet", played.decode)
    return played


@pytest.mark.parametrize(
    ("codec", "pixel_format", "tags"),
    [
        ("libx264", "yuv420p", {}),
        ("libx264", "yuvj420p", {"color_range": 2, "colorspace": 1}),
        ("libx265", "yuv420p10le", {"colorspace": 9}),
        ("libvpx-vp9", "yuv420p", {}),
    ],
)
def test_interleaved_frames_become_the_same_bytes(
    tmp_path: Path, gpu: PlayedGpu, codec: str, pixel_format: str, tags: dict[str, int]
) -> None:
    path = encode(tmp_path / "a.mkv", moving_square(20, 74, 58), codec=codec, pixel_format=pixel_format, tags=tags)
    assert everything(path, on_gpu=True) == everything(path)
    assert gpu.opened == [True, False]


def test_real_video_too(shared_data: Path, gpu: PlayedGpu) -> None:
    """One that is to be turned by 180 degrees."""
    path = shared_data / "web" / "moviepy_fire2.mp4"
    config = replace(ON_GPU, short_side_px=240, crop_px=224)
    assert everything(path, on_gpu=True, config=config) == everything(path, config=config)
    assert gpu.opened == [True, False]


@pytest.mark.parametrize("fault", ["", "error", "lost", "size"])
def test_what_looks_damaged_is_left_to_the_cpu(clip: Path, gpu: PlayedGpu, fault: str) -> None:
    expected = everything(clip)
    gpu.fault, gpu.opened = fault, []
    assert everything(clip, on_gpu=True) == expected
    assert gpu.opened == ([True, False] if fault else [True])


def test_a_damaged_video_is_what_the_cpu_makes_of_it(clip: Path, tmp_path: Path, gpu: PlayedGpu) -> None:
    damaged = bytearray(clip.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 400] = bytes(400)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(damaged)
    expected = everything(path)
    assert expected[1].verdict == "partial"
    gpu.opened = []
    assert everything(path, on_gpu=True) == expected
    assert gpu.opened == [True, False]


def test_only_large_videos_that_are_made_smaller_are_for_the_gpu(
    clip: Path, tmp_path: Path, gpu: PlayedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(path: Path = clip, **changes: Any) -> bool:
        gpu.opened = []
        everything(path, on_gpu=True, config=replace(ON_GPU, **changes))
        return gpu.opened[0]

    assert asked()
    assert not asked(short_side_px=48)
    assert not asked(short_side_px=None, crop_px=None)
    frames = moving_square(20)
    assert not asked(encode(tmp_path / "other.avi", frames, codec="mpeg4"))
    assert not asked(encode(tmp_path / "more_chroma.mp4", frames, pixel_format="yuv444p"))
    assert not asked(encode(tmp_path / "short.mp4", frames[:9]))
    monkeypatch.setattr(decoding, "MIN_GPU_LINES", 49)
    assert not asked()


def test_decoders_ask_for_it_only_when_it_is_chosen_and_isolated_ones_never(
    clip: Path, gpu: PlayedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = Video(container_digest(clip), str(clip), NUM_FRAMES)
    for hardware in ("none", "cuda"):
        list(decode(video, replace(ON_GPU, hardware=hardware), Limits()))
    everything(clip)  # a clip that somebody shows to a model
    assert gpu.opened == [False, True, False]
    monkeypatch.undo()
    with IsolatedDecoder(ON_GPU, Limits()) as isolated:
        *_, last = (timed.event for timed in isolated(video))
    assert isinstance(last, VideoResult)
    assert last.verdict == "ok"


def container_digest(path: Path) -> str:
    from pipeline.core.files import sha256_file

    return sha256_file(str(path))


def test_none_leaves_fingerprint_and_keys_as_they_were_and_cuda_has_its_own() -> None:
    before = {
        **{"short_side_px": 240, "crop_px": 224, "rate_fps": None, "after_damage": "keep"},
        **{"flow": "none", "flow_stack": 1, "flow_bound_px": 20.0, "flow_subtract_mean": False},
    }
    config = ExtractionConfig()
    assert extractor_of(config).settings["decode"] == before == config_dict(config)["decode"]
    on_gpu = replace(config, decode=replace(config.decode, hardware="cuda"))
    assert extractor_of(on_gpu).settings["decode"] == before | {"hardware": "cuda"}
    assert extractor_of(on_gpu).fingerprint != extractor_of(config).fingerprint


def test_what_conceals_without_a_word_cannot_drop_what_is_concealed() -> None:
    with pytest.raises(ConfigError, match="after_damage is drop and hardware is cuda"):
        DecodeConfig(hardware="cuda", after_damage="drop")


@without_gpu
def test_a_run_is_refused_in_one_line_before_anything_is_made(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(
        ConfigError, match=r"hardware is cuda, and here .* give --extract.decode.hardware none"
    ) as error:
        run(["demo", "--in-process", "--no-tracking", "--store", str(store), "--extract.decode.hardware", "cuda"])
    assert "\n" not in str(error.value)
    assert not list(store.rglob("manifest.json"))


def test_an_extraction_whose_workers_have_no_gpu_is_refused(clip: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, decode=replace(CONFIG.decode, hardware="cuda"))
    with pytest.raises(ConfigError, match="no worker of the extraction has a GPU"):
        extract(config, Context.for_test(tmp_path), index=index_of(tmp_path, [clip]))


@without_gpu
def test_a_worker_whose_gpu_does_not_decode_refuses(clip: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, decode=replace(CONFIG.decode, hardware="cuda"))
    context = Context.for_test(
        tmp_path,
        resources=Resources(num_workers=1, gpus_per_worker=1.0),
        workers=Workers(node=ClusterNode(num_cpus=2, num_gpus=1)),
    )
    with pytest.raises(ConfigError, match="here is no such decoder"):
        extract(config, context, index=index_of(tmp_path, [clip]))


@without_gpu
def test_a_decoder_that_does_not_open_is_no_fault_of_the_video(clip: Path, small_videos_too: None) -> None:
    with pytest.raises(RunError, match=r"clip.mp4 cannot be opened with the GPU's decoder .* fewer --decoders-per-gpu"):
        everything(clip, on_gpu=True)


@pytest.mark.parametrize(("number", "options"), [(0, {"primary_ctx": "1"}), (errno.ENOTSUP, {})])
def test_a_process_keeps_one_context_unless_torch_has_made_another(
    number: int, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[HWAccel] = []

    def create(codec: str, mode: str, hwaccel: HWAccel) -> object:
        made.append(hwaccel)
        if number:
            raise OSError(number, os.strerror(number))
        return object()

    monkeypatch.setattr(container.av.CodecContext, "create", create)
    container._gpu_decoder.cache_clear()
    assert [container._gpu_decoder()[0].options for _ in range(2)] == [options, options]
    assert [hwaccel.options for hwaccel in made] == [{"primary_ctx": "1"}]
    container._gpu_decoder.cache_clear()


@pytest.mark.gpu
@with_gpu
def test_the_chips_frames_are_the_cpus(
    tmp_path: Path, shared_data: Path, small_videos_too: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pixels, numbers, times and segments; and the frames are the chip's, not those of a second pass.

    Of damaged videos all but the pixels.
    """
    asked: list[bool] = []

    def opened(*args: Any, on_gpu: bool, **kwargs: Any) -> AbstractContextManager[Any]:
        asked.append(on_gpu)
        return container.open_video(*args, on_gpu=on_gpu, **kwargs)

    monkeypatch.setattr(decoding, "open_video", opened)
    formats: set[str] = set()
    downloaded = container.decode_packet

    def decoded(decoder: Any, packet: Any) -> list[Any]:
        items = downloaded(decoder, packet)
        if asked[-1]:
            formats.update(item.format.name for item in items if isinstance(item, av.VideoFrame))
        return items

    monkeypatch.setattr(decoding, "decode_packet", decoded)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 30, (40, 720, 1280, 3), np.uint8) + moving_square(40, 1280, 720) // 2
    videos = [
        encode(tmp_path / "h264.mp4", frames, options={"preset": "veryfast", "bf": "3"}),
        encode(tmp_path / "hevc.mkv", frames, codec="libx265", options={"preset": "ultrafast"}),
        encode(tmp_path / "hevc_10.mkv", frames, codec="libx265", pixel_format="yuv420p10le"),
        encode(tmp_path / "vp9.mkv", frames[:20], codec="libvpx-vp9", options={"deadline": "realtime"}),
        *sorted((shared_data / "web").glob("*.mp4")),
    ]
    made_oddly = sorted((shared_data / "odd").iterdir())
    config = replace(ON_GPU, short_side_px=120, crop_px=112)
    differ = []
    for path in [*videos, *made_oddly]:
        (columns, report), asked[:] = everything(path, config=config), []
        found, on_gpu = everything(path, config=config, on_gpu=True)
        if report.verdict != "ok":
            # What the chip makes up before the first fault that it reports is its own.
            columns, found = ({**parts, "frames_NHWC": b""} for parts in (columns, found))
            report, on_gpu = (replace(part, reason="") for part in (report, on_gpu))
        if (found, on_gpu) != (columns, report):
            differ.append(f"{path.name}: other bytes")
        if path in videos and asked != [True]:
            differ.append(f"{path.name}: passes on the GPU {asked}")
    assert not differ
    assert formats == {"nv12", "p010le"}
