"""A list on this machine's disk, for more items than fit into memory."""

from __future__ import annotations

import pickle
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

Item = TypeVar("Item")


class DiskList(Sequence[Item]):
    """A list whose items are pickled into an unnamed temporary file: one takes 8 bytes of memory.

    An item is read from the file at each access. The list belongs to one thread of one process.
    """

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed and deleted with this list)
        self._ends = array("q", [0])
        for item in items:
            self.append(item)

    def __del__(self) -> None:
        self._file.close()

    def append(self, item: Item) -> None:
        """Adds an item at the end."""
        self._file.seek(self._ends[-1])
        pickle.dump(item, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._ends.append(self._file.tell())

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> list[Item]: ...
    def __getitem__(self, number: int | slice) -> Any:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        self._file.seek(self._ends[range(len(self))[number]])
        return pickle.load(self._file)  # noqa: S301  (no other process can write to it)
