"""The demo made small: the same recipe and every stage of it, in a part of its time."""

from __future__ import annotations

SMALL_DEMO = [
    "demo",
    *("--corpus.num-unlabelled", "8", "--corpus.num-train", "16", "--corpus.num-test", "8"),
    *("--extract.shard-frames", "256"),
    *("--pretrain.num-steps", "12", "--pretrain.batch-size", "16", "--pretrain.num-units", "16"),
    *("--pretrain.checkpoint-every-steps", "4", "--pretrain.validate-every-steps", "6"),
    *("--pretrain.validation-fraction", "0.2"),
    *("--scratch.num-units", "16", "--scratch.num-steps", "4", "--scratch.labels-per-class", "1", "2"),
    *("--pretrained.num-units", "16", "--pretrained.num-steps", "4", "--pretrained.labels-per-class", "1", "2"),
    *("--single-frame.num-steps", "4", "--single-frame.labels-per-class", "1", "2"),
    *("--scratch.num-samplings", "2", "--pretrained.num-samplings", "2", "--single-frame.num-samplings", "2"),
]

TINY_DEMO = [
    *SMALL_DEMO,
    *("--extract.convnet.name", "pixels", "--extract.convnet.layer", "gray", "--extract.convnet.grid", "2"),
    *("--extract.convnet.input-px", "32", "--extract.decode.crop-px", "32", "--extract.decode.short-side-px", "32"),
    *("--workers", "1", "--in-process", "--no-tracking"),
]
"""The same with four pixels as percepts, in one process."""
