"""Training groups on real Ray: a lost worker is replaced, an exception of the loop itself comes through as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn

from cluster.session import Session
from pipeline.core.errors import GroupReplaced, TrainingDiverged
from pipeline.core.events import Event, Log
from pipeline.core.workers import TrainLoop, TrainWorker, Workers
from tests.cluster.tasks import value_of

GLOO = RuntimeError("[pair.cc:537] Read error [127.0.0.1]:52648: Connection reset by peer. This is typically caused by")
DIED = "died"


@pytest.mark.ray
@pytest.mark.parametrize(
    ("failures", "own"),
    [
        ((DIED, GLOO), None),
        ((GLOO,), None),
        ((torch.distributed.DistBackendError("NCCL error"), DIED), None),
        ((DIED, RuntimeError("the group is gone")), None),
        ((RuntimeError("my own"),), RuntimeError),
        ((DIED, ValueError("my own")), ValueError),
        ((GLOO, ValueError("my own")), ValueError),
        ((ValueError("my own"), TrainingDiverged("step 3")), TrainingDiverged),
        ((DIED, GLOO, TrainingDiverged("step 3")), TrainingDiverged),
        ((), None),
    ],
)
def test_the_loops_own_error_is_separated_from_those_of_a_lost_worker(
    failures: tuple[Any, ...], own: type[Exception] | None, ray_session: Session
) -> None:
    # Ray reads its authentication mode when it is first imported: the session comes first.
    from ray.exceptions import RayActorError

    from cluster.training.failures import error_of_loop

    raised = {rank: RayActorError("killed") if failure is DIED else failure for rank, failure in enumerate(failures)}
    error = error_of_loop(list(raised.values()))
    assert error is None if own is None else type(error) is own


def step_together(directory: str, worker: TrainWorker) -> None:
    """Counts steps in a file; the last worker is killed at step 5, once. Then the gradients are averaged."""
    for step in range(int(_read(directory, "step", "0")), 10):
        worker.any(False)
        if worker.rank == 0:
            Path(directory, "step").write_text(str(step + 1))
            with Path(directory, "log").open("a") as log:
                log.write(f"{step} ")
        if step == 5 and worker.rank == worker.world_size - 1 and not Path(directory, "killed").exists():
            Path(directory, "killed").touch()
            os._exit(1)
    model = worker.prepare(nn.Linear(1, 1))
    model(torch.tensor([[float(worker.rank)]])).sum().backward()
    gradient = next(model.parameters()).grad
    assert gradient is not None
    if worker.rank == 0:
        worker.barrier()
        worker.log(f"{worker.world_size} workers, {torch.get_num_threads()} threads, gradient {gradient.item():g}")
    else:
        worker.barrier()


def _read(directory: str, name: str, default: str) -> str:
    path = Path(directory, name)
    return path.read_text() if path.exists() else default


def step_and_raise(directory: str, worker: TrainWorker) -> None:
    """The same, and after it the last worker raises: a group takes half a minute to begin, and serves both."""
    with Path(directory, f"started-{worker.rank}").open("a") as log:
        log.write("x")
    step_together(directory, worker)
    if worker.rank == worker.world_size - 1:
        raise ValueError("my own")
    worker.barrier()


def coordinate(loop: TrainLoop, directory: str, num_workers: int) -> None:
    from cluster.workers import RayWorkers

    events: list[Event] = []
    workers = RayWorkers(source="train", emit=events.append, scratch_uri=f"{directory}/scratch")
    try:
        workers.train(loop, directory, name="group", num_workers=num_workers)
    finally:
        Path(directory, "scratch-left").write_text(str(Path(directory, "scratch").exists()))
        Path(directory, "said").write_text("\n".join(event.line for event in events if isinstance(event, Log)))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("num_workers", "said"),
    [(2, "lost a training worker ("), (1, "a worker died on the training; trying it once more on a new one")],
    ids=["a group of Ray Train", "an actor alone"],
)
def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_an_exception_is_not_retried(
    num_workers: int, said: str, tmp_path: Path, ray_session: Session
) -> None:
    with pytest.raises(ValueError, match=r"^my own$") as raised:
        value_of(ray_session, "train", coordinate, step_and_raise, str(tmp_path), num_workers)
    assert type(raised.value) is ValueError
    lines = (tmp_path / "said").read_text().splitlines()
    (line,) = [line for line in lines if not line.startswith("waiting for ")]
    assert line.startswith(said)
    steps = [int(step) for step in (tmp_path / "log").read_text().split()]
    assert sorted(set(steps)) == list(range(10))
    assert len(steps) <= 11
    assert (tmp_path / f"started-{num_workers - 1}").read_text() == "xx", "once before its loss, and once after"
    assert (tmp_path / "scratch-left").read_text() == "False"


@pytest.mark.ray
def test_an_actor_whose_loop_raises_is_not_tried_again(tmp_path: Path, ray_session: Session) -> None:
    """As one would be that has died, and only once."""
    (tmp_path / "killed").touch()
    with pytest.raises(ValueError, match=r"^my own$") as raised:
        value_of(ray_session, "train", coordinate, step_and_raise, str(tmp_path), 1)
    assert type(raised.value) is ValueError
    assert (tmp_path / "started-0").read_text() == "x"
    assert (tmp_path / "scratch-left").read_text() == "False"


def test_a_group_that_was_replaced_may_not_write(tmp_path: Path, ray_session: Session) -> None:
    from cluster.training.fencing import FencingToken, RayTrainWorker

    def member() -> RayTrainWorker:
        mark = FencingToken(str(tmp_path / "writer.json"))
        return RayTrainWorker("train", lambda event: None, 0, 1, torch.device("cpu"), mark, {"CPU": 1.0}, 1, 60.0)

    replaced, new = member(), member()
    with pytest.raises(GroupReplaced):  # nobody has begun
        replaced.check_fencing_token()
    replaced.begin()
    replaced.check_fencing_token()
    replaced.checkpointed()
    assert replaced.token.read()["num_checkpoints"] == 1
    new.begin()
    new.check_fencing_token()
    with pytest.raises(GroupReplaced, match="wait for the run that started it"):
        replaced.check_fencing_token()
    new.check_fencing_token()


def test_in_process_the_loop_is_a_group_of_one(tmp_path: Path) -> None:
    (tmp_path / "killed").touch()
    events: list[Event] = []
    Workers(source="train", emit=events.append).train(step_together, str(tmp_path), name="group", num_workers=2)
    assert [event.line for event in events if isinstance(event, Log)] == ["1 workers, 1 threads, gradient 0"]
