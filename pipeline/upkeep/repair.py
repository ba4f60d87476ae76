"""Repairs of a store: one for every fault that an inspection finds."""

from __future__ import annotations

from dataclasses import replace

from pipeline.core.files import filesystem, join, remove
from pipeline.engine.store import Store
from pipeline.upkeep.compaction import rewrite
from pipeline.upkeep.faults import SET_ASIDE, Fault
from stages.percepts.shards import read_shards


def repair(store: Store, fault: Fault) -> None:
    """Mends a fault. Killed half-way, the rest is found by the next inspection."""
    for path in fault.removes:
        remove(join(store.root, path))
    if fault.takes_down:
        for shard in read_shards(store.root, [fault.path]).values():
            rewrite(store.root, [shard], leave_out=(fault.takes_down,))
    if fault.kind == "foreign":
        fs, path = filesystem(join(store.root, fault.path))
        target = filesystem(join(store.root, SET_ASIDE, fault.path))[1]
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.mv(path, target)


def with_removal(fault: Fault) -> Fault:
    """Returns a fault whose repair removes an unfinished artifact; other faults are returned as they are."""
    if fault.kind != "unfinished":
        return fault
    return replace(fault, repair="remove it", removes=(fault.path,))
