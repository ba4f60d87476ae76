"""A stream of values that a generator function yields in another process, with a bounded number waiting.

Values travel as Ray objects: through shared memory on one node, over the network between two.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final

import ray
from ray.exceptions import RayTaskError

from cluster.lost_nodes import LOSS_ERRORS, is_node_loss
from cluster.ray_private import stream_options
from cluster.session import cause_of
from pipeline.core.error_words import one_line
from pipeline.core.errors import WorkerDied
from pipeline.core.secrets import known, learn
from pipeline.core.workers import Item, Result

MAX_DEATHS: Final = 2
MAX_NODE_DEATHS: Final = 5
FIRST_VALUE_TIMEOUT_S: Final = 60.0
"""The wait for a stream's first value, after which it is computed in the calling process: other work may occupy every
core until the end of the run."""


def stream(
    function: Callable[[Item], Iterator[Result]], item: Item, *, ahead: int, log: Callable[[str], None]
) -> Generator[Result, None, None]:
    """Yields the values of `function(item)`, as `pipeline.core.workers.Workers.stream` says."""
    # Ray's retries are off: only this function knows how many values have been yielded.
    task: Any = ray.remote(num_cpus=1, max_retries=0, **stream_options(ahead))(_skip)
    num_yielded = num_deaths = num_node_deaths = 0
    while True:
        references = task.remote(function, item, num_yielded, known())
        try:
            if not num_yielded and not ray.wait([references], timeout=FIRST_VALUE_TIMEOUT_S)[0]:
                log(
                    f"no core was free to decode {item} elsewhere for {FIRST_VALUE_TIMEOUT_S:.0f} s: it is decoded here"
                )
                yield from function(item)
                return
            for reference in references:
                yield ray.get(reference)
                num_yielded += 1
            return
        except RayTaskError as error:
            raise cause_of(error) from None
        except LOSS_ERRORS as error:
            if is_node_loss(error, None):
                num_node_deaths += 1
            else:
                num_deaths += 1
            if num_deaths >= MAX_DEATHS or num_node_deaths >= MAX_NODE_DEATHS:
                raise WorkerDied(
                    f"{num_deaths + num_node_deaths} processes died on {item}: {one_line(error)}"
                ) from None
            log(f"a process died on {item}; trying it once more on a new one")
        finally:
            ray.cancel(references, force=True)


def _skip(
    function: Callable[[Any], Iterator[Any]], item: Any, num_yielded: int, addresses: Mapping[str, str]
) -> Iterator[Any]:
    """Yields the values of `function` without the first `num_yielded`; runs in the other process."""
    learn(addresses)
    for position, value in enumerate(function(item)):
        if position >= num_yielded:
            yield value
