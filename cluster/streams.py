"""Values that a generator function yields in another process, one after the other, with a bounded number waiting.

They travel as Ray objects: through shared memory on one node, over the network between two.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import ray
from ray.exceptions import RayTaskError

from cluster.lost_nodes import LOSSES, in_one_line, is_nodes_fault
from cluster.ray_private import stream_options
from cluster.session import cause_of
from pipeline.core.errors import WorkerDied
from pipeline.core.workers import Item, Result

MAX_DEATHS: Final = 2
MAX_NODE_DEATHS: Final = 5
PATIENCE_S: Final = 60.0
"""So long a stream waits for its first value before it is computed here: others may hold every core for good."""


def stream(
    function: Callable[[Item], Iterator[Result]], item: Item, *, ahead: int, log: Callable[[str], None]
) -> Generator[Result, None, None]:
    """See `pipeline.core.workers.Workers.stream`."""
    # Our retries and not Ray's: only ours know what has been yielded.
    task: Any = ray.remote(num_cpus=1, max_retries=0, **stream_options(ahead))(_skip)
    num_yielded = num_deaths = num_node_deaths = 0
    while True:
        references = task.remote(function, item, num_yielded)
        try:
            if not num_yielded and not ray.wait([references], timeout=PATIENCE_S)[0]:
                log(f"no core was free to decode {item} elsewhere for {PATIENCE_S:.0f} s: it is decoded here")
                yield from function(item)
                return
            for reference in references:
                yield ray.get(reference)
                num_yielded += 1
            return
        except RayTaskError as error:
            raise cause_of(error) from None
        except LOSSES as error:
            if is_nodes_fault(error, None):
                num_node_deaths += 1
            else:
                num_deaths += 1
            if num_deaths >= MAX_DEATHS or num_node_deaths >= MAX_NODE_DEATHS:
                raise WorkerDied(f"processes died again and again on {item}: {in_one_line(error)}") from None
            log(f"a process died on {item}; trying it once more on a new one")
        finally:
            ray.cancel(references, force=True)


def _skip(function: Callable[[Any], Iterator[Any]], item: Any, num_yielded: int) -> Iterator[Any]:
    """In the other process: what `function` yields, without its first values."""
    for position, value in enumerate(function(item)):
        if position >= num_yielded:
            yield value
