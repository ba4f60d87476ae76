"""The beginning of every recipe that reads videos: archives are unpacked, and everything is indexed."""

from __future__ import annotations

from dataclasses import replace

from pipeline.plan import Node, Plan
from pipeline.stage import Resources
from stages.ingest import IngestConfig, ingest
from stages.unpack import UnpackConfig, unpack
from stages.video.sources import split_archives


def add_index(plan: Plan, config: IngestConfig, resources: Resources, corpus: Node | None = None) -> Node:
    """The index of `config.videos` (folders, archives, globs, manifests, buckets), and of a `corpus` that was made."""
    archives, others = split_archives(config.videos)
    unpacked = plan.add(unpack, UnpackConfig(archives=archives)) if archives else None
    return plan.add(ingest, replace(config, videos=others), resources=resources, corpus=corpus, unpacked=unpacked)
