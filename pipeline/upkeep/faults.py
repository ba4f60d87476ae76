"""The kinds of faults that a store may have, and the repair of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from pipeline.core.files import join, remove
from pipeline.engine.store import Store
from pipeline.upkeep.compaction import rewrite
from stages.percepts.shards import read_shards, sidecar

Kind = Literal[
    "damaged",
    "missing",
    "account",
    "input gone",
    "made of damaged",
    "unfinished",
    "unrecorded",
    "replaced",
    "taken down",
    "temporary",
    "foreign",
]

SET_ASIDE: Final = "set-aside"
"""Directory of the store into which repairs of version 0.1 moved foreign files."""
MAKE_AGAIN: Final = "remove it; the next run of its recipe makes it again"
"""Repair of what a run makes again."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something in a store that is not as it should be."""

    kind: Kind
    path: str
    """Path relative to the store's root."""
    what: str
    repair: str
    """Action that mends it; `--repair` takes it, unless it begins with "you"."""
    removes: tuple[str, ...] = ()
    """Paths that the repair removes, in this order."""
    takes_down: str = ""
    """sha256 of the video that the repair takes out of the shard."""

    @property
    def is_repairable(self) -> bool:
        """True if `--repair` can mend it."""
        return bool(self.removes or self.takes_down)


def foreign_file(name: str) -> Fault:
    """Returns the fault of a file that is none of the store's."""
    what = "nothing of percepts has such a name"
    return Fault(kind="foreign", path=name, what=what, repair="you: move it out of the store, if it is not wanted")


def broken_shard(path: str, kind: Kind, what: str) -> Fault:
    """Returns the fault of a shard; its repair is known once the artifacts that use it are."""
    return Fault(kind=kind, path=path, what=what, repair="", removes=(sidecar(path), path))


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
