"""Ways to harm a video file, and what must hold of any file whatever."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.video.decode import DecodeConfig, DecodeReport, VideoDecoder
from stages.video.limits import Limits
from stages.video.probe import probe

LIMITS = Limits(max_pixels=1 << 21, max_duration_s=600.0, max_frames=10_000, min_decode_s=30.0, max_decode_s_per_s=5.0)


def harmed(data: bytes, seed: int) -> bytes:
    """The bytes after up to three misfortunes, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(rng.integers(1, 4)):
        if data:
            data = _once(data, rng)
    return data


def _once(data: bytes, rng: np.random.Generator) -> bytes:
    bytes_N = np.frombuffer(data, np.uint8).copy()
    size = len(bytes_N)
    start = int(rng.integers(0, size))
    end = min(size, start + int(rng.integers(1, 4000)))
    match rng.choice(["flips", "header", "zeros", "noise", "cut", "behead", "lose", "repeat", "swap"]):
        case "flips":
            for position in rng.integers(0, size, rng.integers(1, 30)):
                bytes_N[position] ^= 1 << rng.integers(0, 8)
        case "header":
            for position in rng.integers(0, min(size, 1024), rng.integers(1, 8)):
                bytes_N[position] = rng.integers(0, 256)
        case "zeros":
            bytes_N[start:end] = 0
        case "noise":
            bytes_N[start:end] = rng.integers(0, 256, end - start)
        case "cut":
            bytes_N = bytes_N[:start]
        case "behead":
            bytes_N = bytes_N[min(start, 4000) :]
        case "lose":
            bytes_N = np.concatenate([bytes_N[:start], bytes_N[end:]])
        case "repeat":
            bytes_N = np.concatenate([bytes_N[:end], bytes_N[start:]])
        case "swap":
            bytes_N = np.concatenate([bytes_N[start:], bytes_N[:start]])
    return bytes_N.tobytes()


@dataclass(frozen=True)
class Decoded:
    """What came out of a file."""

    report: DecodeReport
    digest: str
    """Of pixels, numbers, times and segments."""


def decode_and_check(path: str, config: DecodeConfig) -> Decoded:
    """Decode a file of any bytes and assert what the docstrings promise of it."""
    found = probe(path, LIMITS)
    assert (found.verdict == "rejected") <= bool(found.reason)
    decoder = VideoDecoder(path, config, limits=LIMITS)
    digest = hashlib.sha256()
    index, segment = [-1], [0]
    for chunk in decoder:
        assert len(chunk.frames_NHWC) == len(chunk.index_N) == len(chunk.pts_us_N) == len(chunk.segment_N) > 0
        for array in (chunk.frames_NHWC, chunk.index_N, chunk.pts_us_N, chunk.segment_N):
            digest.update(np.ascontiguousarray(array).tobytes())
        index += chunk.index_N.tolist()
        segment += chunk.segment_N.tolist()
    report = decoder.report
    counts = (report.frames_decoded, report.frames_dropped, report.frames_missing)
    assert min(counts) >= 0
    assert sum(counts) == report.frames_expected, report
    assert (report.verdict == "ok") == (not report.reason), report
    assert (report.verdict == "rejected") == (report.frames_decoded == 0), report
    if report.verdict != "rejected":
        assert len(index) - 1 == report.frames_decoded
        steps, rises = np.diff(index[1:]), np.diff(segment[1:])
        assert np.all(steps >= 1)
        assert np.all(rises[steps > 1] == 1)
        # Without a frame missing, a segment ends only where the file's clock starts again.
        assert decoder.probe is not None
        assert np.count_nonzero(rises[steps == 1]) <= len(decoder.probe.timeline.seams)
        assert np.all((rises == 0) | (rises == 1))
    return Decoded(report, digest.hexdigest())


def write_harmed(source: Path, target: Path, seed: int) -> Path:
    """A harmed copy."""
    target.write_bytes(harmed(source.read_bytes(), seed))
    return target
