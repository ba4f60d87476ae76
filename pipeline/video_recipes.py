"""The beginning of every recipe that reads videos: archives are unpacked, and everything is indexed."""

from __future__ import annotations

from pipeline.plan import Node, Plan
from pipeline.stage import Resources
from stages.ingest import IngestConfig, ingest
from stages.unpack import UnpackConfig, unpack
from stages.video.sources import split_archives


def add_index(plan: Plan, videos: tuple[str, ...], resources: Resources, corpus: Node | None = None) -> Node:
    """The index of `videos` (folders, archives, globs, manifests, buckets), and of a `corpus` that a stage made."""
    archives, others = split_archives(videos)
    unpacked = plan.add(unpack, UnpackConfig(archives=archives)) if archives else None
    return plan.add(ingest, IngestConfig(videos=others), resources=resources, corpus=corpus, unpacked=unpacked)
