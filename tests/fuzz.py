"""Harms videos, lists and archives at random for as long as you like, and decodes each video in an isolated process.

    python -m tests.fuzz --minutes 10 --seed 7 --videos ../shared/data/odd ../shared/data/web
    make fuzz MINUTES=10

Of every harmed file: no crash, no hang, nothing raised, an account that closes, and the same pixels and account when it
is decoded again while others are. Whatever breaks this is kept in the folder `--keep`, and the exit status is 1. Ends
with a JSON line that says what was done. The same seed harms the same way.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages.video.decode import DecodeConfig
from stages.video.processes.isolated_process import IsolatedProcess, ProcessDied
from tests.fuzz_inputs import InputFuzz
from tests.stages.video.clips import encode, moving_square
from tests.stages.video.damage import LIMITS, Decoded, decode_and_check, write_harmed

MAX_SOURCE_BYTES = 4 << 20
"""Larger videos are left out: many small harms find more than a few long decodings."""
CONFIGS = (
    DecodeConfig(short_side_px=32, crop_px=32),
    DecodeConfig(short_side_px=None, crop_px=None),
    DecodeConfig(short_side_px=32, crop_px=32, rate_fps=7.0),
    DecodeConfig(short_side_px=32, crop_px=32, after_damage="drop"),
    DecodeConfig(short_side_px=48, crop_px=32, flow="dis", flow_stack=2),
)


def own_clips(folder: Path) -> list[Path]:
    """The same frames in containers and codecs that fail in different ways."""
    frames, h264 = moving_square(60), {"g": "12", "bf": "2"}
    return [
        encode(folder / "a.mp4", frames, options=h264),
        encode(folder / "a.mkv", frames, options=h264),
        encode(folder / "a.ts", frames, options=h264),
        encode(folder / "a.flv", frames, options=h264),
        encode(folder / "a.avi", frames, codec="mpeg4", options={"g": "12"}),
        encode(folder / "a.mpg", frames, codec="mpeg2video"),
        encode(folder / "a.webm", frames, codec="libvpx-vp9", options={"g": "12", "cpu-used": "8"}),
        encode(folder / "b.webm", frames, codec="libvpx"),
        encode(folder / "h.mp4", frames, codec="libx265", options={"x265-params": "keyint=12:log-level=none"}),
        encode(folder / "a.gif", frames[:12], codec="gif", pixel_format="rgb8"),
        encode(folder / "a.mov", frames, codec="mjpeg", pixel_format="yuvj420p"),
    ]


class Fuzz:
    """One run."""

    def __init__(self, sources: list[Path], folder: Path, keep: Path) -> None:
        self.sources = sources
        self.folder = folder
        self.keep = keep
        self.verdicts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest_s = 0.0
        self.inputs = InputFuzz()

    def case(self, seed: int) -> None:
        """Harm a video and decode it twice, in two processes."""
        rng = random.Random(seed)
        source, config = rng.choice(self.sources), rng.choice(CONFIGS)
        path = write_harmed(source, self.folder / f"{seed}{source.suffix}", seed)
        began = time.monotonic()
        outcomes: list[Decoded] = []
        for _ in range(2):
            with IsolatedProcess(LIMITS) as process:
                try:
                    outcomes.append(process.call(decode_and_check, str(path), config))
                except (ProcessDied, AssertionError, Exception) as error:  # noqa: BLE001
                    self._fail(seed, path, f"{type(error).__name__}: {error}")
                    return
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
        self.verdicts[outcomes[0].report.verdict] += 1
        if outcomes[0] != outcomes[1]:
            self._fail(seed, path, f"decoded twice, differs: {outcomes[0].report} {outcomes[1].report}")
        path.unlink(missing_ok=True)
        if (broken := self.inputs.case(seed)) is not None:
            name, data, fault = broken
            path = self.folder / name
            path.write_bytes(data)
            self._fail(seed, path, fault)

    def _fail(self, seed: int, path: Path, why: str) -> None:
        self.keep.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self.keep / path.name)
        self.failures.append(f"seed {seed} ({path.name}): {why}")
        print(self.failures[-1], flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--videos", type=Path, nargs="*", default=[], help="folders of videos to harm, besides own ones"
    )
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        sources = own_clips(Path(directory))
        for folder in options.videos:
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            sources += [path for path in files if path.stat().st_size <= MAX_SOURCE_BYTES]
        fuzz = Fuzz(sources, Path(directory), options.keep)
        deadline, seed = time.monotonic() + 60 * options.minutes, options.seed << 32
        said = time.monotonic()
        with ThreadPoolExecutor(options.workers) as pool:
            while time.monotonic() < deadline:
                batch = range(seed, seed + 4 * options.workers)
                list(pool.map(fuzz.case, batch))
                seed = batch.stop
                if time.monotonic() - said > 30:
                    said = time.monotonic()
                    print(f"{seed - (options.seed << 32)} files, {len(fuzz.failures)} failures", flush=True)
    num_files = seed - (options.seed << 32)
    figures = {
        "fuzz": "decode",
        "files": num_files,
        "sources": len(sources),
        "verdicts": dict(fuzz.verdicts),
        "lists and archives": dict(fuzz.inputs.counts),
        "failures": len(fuzz.failures),
        "slowest_s": round(fuzz.slowest_s, 2),
        "seed": options.seed,
    }
    print(json.dumps(figures))
    return 1 if fuzz.failures else 0


if __name__ == "__main__":
    sys.exit(main())
