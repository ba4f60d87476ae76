"""Repairs of a store: one for every fault that an inspection finds."""

from __future__ import annotations

from dataclasses import replace

from pipeline.core.files import join, remove
from pipeline.engine.store import Store
from pipeline.upkeep.compaction import rewrite
from pipeline.upkeep.faults import Fault
from stages.percepts.shards import read_shards


def repair(store: Store, fault: Fault) -> None:
    """Mends a fault, and touches nothing that the store does not know.

    Killed half-way, the rest is found by the next inspection.
    """
    for path in fault.removes:
        remove(join(store.root, path))
    if fault.takes_down:
        for shard in read_shards(store.root, [fault.path]).values():
            rewrite(store.root, [shard], leave_out=(fault.takes_down,))


def with_removal(fault: Fault) -> Fault:
    """Returns a fault whose repair removes an unfinished artifact; other faults are returned as they are."""
    if fault.kind != "unfinished":
        return fault
    return replace(fault, repair="remove it", removes=(fault.path,))
