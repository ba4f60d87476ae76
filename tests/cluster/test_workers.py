"""The pool of workers on real Ray: a dead worker is replaced once for every item, everything else comes through."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.session import Session
from pipeline.core.errors import WorkerDied
from pipeline.core.events import Event, Log, Waiting
from pipeline.core.workers import Workers
from tests.cluster.tasks import value_of


def squares(directory: str) -> Callable[[int], int]:
    """A worker's function: 3 kills its process the first time, 4 always, 5 raises."""
    pid = os.getpid()

    def work(item: int) -> int:
        assert os.getpid() == pid, "the function runs where it was built"
        flag = Path(directory, f"died-of-{item}")
        if item == 4 or (item == 3 and not flag.exists()):
            flag.touch()
            os._exit(1)
        if item == 5:
            raise ValueError("five")
        return item * item

    Path(directory, f"built-{pid}").touch()
    return work


def two_instead(item: int) -> int:
    assert item == 4
    return 2


class Successors:
    """Of 10 and 20 the next two; of all others nothing."""

    def next_jobs(self, item: int, result: int) -> list[int]:
        assert result == item * item
        return [item + 1, item + 2] if self.may_continue(item) else []

    def may_continue(self, item: int) -> bool:
        return item % 10 == 0


def no_squares(directory: str) -> Callable[[int], int]:
    with Path(directory, "tried").open("a") as log:
        log.write("x")
    raise ValueError("cannot be built")


def coordinate(
    factory: Callable[[str], Callable[[int], int]],
    directory: str,
    items: list[int],
    on_retry: Callable[[int], int] | None = None,
    continuation: Successors | None = None,
) -> tuple[list[tuple[int, int]], list[str]]:
    from cluster.workers import RayWorkers

    events: list[Event] = []
    workers = RayWorkers(source="map", emit=events.append)
    results = workers.map(
        partial(factory, directory),
        items,
        num_workers=2,
        describe=lambda item: f"item {item}",
        on_retry=on_retry,
        continuation=continuation,
    )
    return sorted(results), [event.line for event in events if isinstance(event, Log)]


def run(session: Session, *arguments: Any) -> Any:
    return value_of(session, "map", coordinate, *arguments)


@pytest.mark.ray
def test_a_worker_that_dies_once_loses_nothing(tmp_path: Path, ray_session: Session) -> None:
    items = [1, 2, 3, 6, 7, 8]
    results, lines = run(ray_session, squares, str(tmp_path), items)
    assert results == [(position, item * item) for position, item in enumerate(items)]
    assert lines == ["a worker died on item 3; trying it once more on a new one"], ray_session.events()
    assert 2 <= len(list(tmp_path.glob("built-*"))) <= 3


@pytest.mark.ray
def test_results_give_rise_to_items_for_the_same_workers(tmp_path: Path, ray_session: Session) -> None:
    """The worker that has nothing to do at first rests until there is more."""
    results, lines = run(ray_session, squares, str(tmp_path), [10], None, Successors())
    assert results == [(0, 100), (1, 121), (2, 144)]
    assert len(list(tmp_path.glob("built-*"))) <= 2
    assert not lines
    here = Workers().map(partial(squares, str(tmp_path)), [20, 1], num_workers=1, continuation=Successors())
    assert list(here) == [(0, 400), (2, 441), (3, 484), (1, 1)]


@pytest.mark.ray
def test_a_second_death_names_the_item(tmp_path: Path, ray_session: Session) -> None:
    with pytest.raises(WorkerDied, match=r"2 times on item 4"):
        run(ray_session, squares, str(tmp_path), [1, 4])


@pytest.mark.ray
def test_a_second_try_may_be_another(tmp_path: Path, ray_session: Session) -> None:
    assert run(ray_session, squares, str(tmp_path), [1, 4], two_instead)[0] == [(0, 1), (1, 4)]


@pytest.mark.ray
def test_an_exception_of_the_function_comes_through(tmp_path: Path, ray_session: Session) -> None:
    with pytest.raises(ValueError, match=r"^five$") as raised:
        run(ray_session, squares, str(tmp_path), [1, 5, 2])
    assert type(raised.value) is ValueError


@pytest.mark.ray
def test_an_exception_of_the_factory_comes_through_and_is_not_retried(tmp_path: Path, ray_session: Session) -> None:
    with pytest.raises(ValueError, match=r"^cannot be built$"):
        run(ray_session, no_squares, str(tmp_path), [1])
    assert (tmp_path / "tried").read_text() == "x"


def all_at_once(directory: str, num_workers: int) -> Callable[[int], int]:
    """A worker's function that returns once so many workers are at work."""

    def work(item: int) -> int:
        Path(directory, f"here-{item}").touch()
        while len(list(Path(directory).glob("here-*"))) < num_workers:
            time.sleep(0.05)
        return item

    return work


def behind_another(directory: str, wait_s: float) -> list[Waiting]:
    """Applies a worker while another holds both cores, for so long; returns what was said of the wait."""
    import ray

    from cluster.workers import RayWorkers

    class Holder:
        def ready(self) -> None: ...

    actor_class: Any = ray.remote(num_cpus=2)(Holder)
    holder = actor_class.remote()
    ray.get(holder.ready.remote())
    events: list[Event] = []
    threading.Timer(wait_s, ray.kill, (holder,)).start()
    results = RayWorkers(source="map", emit=events.append).map(partial(squares, directory), [2], num_workers=1)
    assert list(results) == [(0, 4)]
    return [event for event in events if isinstance(event, Waiting)]


@pytest.mark.ray
def test_the_time_until_a_core_is_free_is_said(tmp_path: Path, ray_session: Session) -> None:
    """Without the time that processes take to start, which is work."""
    *_, begins = value_of(ray_session, "map", behind_another, str(tmp_path), 3.0)
    assert begins.reason == ""
    assert begins.seconds > 1.0


def beside_others(directory: str) -> tuple[int, list[tuple[int, int]]]:
    """Applies more workers than there are cores."""
    from cluster.workers import RayWorkers

    workers = RayWorkers()
    num_workers = 1 + sum(node.num_cpus for node in workers.nodes())
    factory = partial(all_at_once, directory, num_workers)
    return num_workers, sorted(workers.map(factory, range(num_workers), num_workers=num_workers, cpus_per_worker=0.0))


@pytest.mark.ray
def test_workers_that_reserve_nothing_need_no_core(tmp_path: Path, ray_session: Session) -> None:
    num_workers, results = value_of(ray_session, "map", beside_others, str(tmp_path))
    assert results == [(number, number) for number in range(num_workers)]


@pytest.mark.ray
def test_no_items_need_no_worker(tmp_path: Path, ray_session: Session) -> None:
    assert run(ray_session, no_squares, str(tmp_path), []) == ([], [])


def test_in_process_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "died-of-3").touch()
    workers = Workers()
    assert list(workers.map(partial(squares, str(tmp_path)), [1, 2, 3], num_workers=2)) == [(0, 1), (1, 4), (2, 9)]
    assert list(workers.map(partial(no_squares, str(tmp_path)), [], num_workers=2)) == []
