"""When training is begun again, and when it gives up: `train_group` over groups whose endings are given."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.training import training_group
from cluster.training.failures import describe_loss
from cluster.training.fencing import Regroup
from cluster.training.training_group import GROW_AFTER_SECONDS, MAX_RESTARTS, Group, train_group
from pipeline.core.errors import GroupReplaced, TrainingDiverged, WorkerDied
from pipeline.core.events import Log


class ScriptedGroups:
    """Stands for `_fit`: its calls end as given, one after the other."""

    def __init__(self, *endings: Callable[[Group], None]) -> None:
        self.left, self.grow_after = list(endings), list[float]()

    def __call__(self, group: Group, grow_after_seconds: float) -> None:
        self.grow_after.append(grow_after_seconds)
        self.left.pop(0)(group)


def failed(cause: BaseException, num_checkpoints: int = 0, world_size: int = 2) -> Callable[[Group], None]:
    def ending(group: Group) -> None:
        from ray.train import WorkerGroupError

        group.token.write(uuid.uuid4().hex, world_size, num_checkpoints, "")
        raise WorkerGroupError("workers failed", {0: cause})

    return ending


def lost(num_checkpoints: int = 0) -> Callable[[Group], None]:
    from ray.exceptions import RayActorError

    return failed(RayActorError(error_msg="killed"), num_checkpoints)


def preempted(group: Group) -> None:
    from ray.train import PreemptionError
    from ray.train.v2.api.preemption import PreemptionInfo

    raise PreemptionError(PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [0]}))


def finished(group: Group) -> None:
    return None


def run(
    monkeypatch: pytest.MonkeyPatch, directory: Path, *endings: Callable[[Group], None]
) -> tuple[ScriptedGroups, list[str]]:
    events: list[Any] = []
    group = Group(
        loop=lambda payload, worker: None,
        payload=None,
        name="key",
        num_workers=2,
        min_workers=1,
        cpus_per_worker=1.0,
        gpus_per_worker=0.0,
        scratch_uri=str(directory / "scratch"),
        source="pretrain",
        emit=events.append,
    )
    groups = ScriptedGroups(*endings)
    monkeypatch.setattr(training_group, "_fit", groups)
    try:
        train_group(group)
    finally:
        lines = [event.line for event in events if isinstance(event, Log)]
    return groups, lines


def test_losses_with_checkpoints_between_them_never_end_a_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    groups, lines = run(monkeypatch, tmp_path, *[lost(num_checkpoints=1)] * (3 * MAX_RESTARTS), finished)
    assert not groups.left
    assert len(lines) == 3 * MAX_RESTARTS
    assert all(line == "lost a training worker (number 0: killed); resuming from the last checkpoint" for line in lines)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("message", "loss"),
    [
        (
            "died because its node has died. ip: 10.99.0.2. Node Id: 3f",
            "number 1 on 10.99.0.2: its node is gone",
        ),
        (
            "Worker( node_ip='10.0.0.7', pid=3) The actor died",
            "number 1 on 10.0.0.7: its process died",
        ),
        ("A worker health check has been hanging for 61.20 seconds.", "number 1: it does not answer"),
        ("something new", "number 1: something new"),
    ],
)
def test_a_loss_is_described_in_words(message: str, loss: str) -> None:
    from ray.exceptions import RayActorError

    assert describe_loss({0: RuntimeError("Connection reset"), 1: RayActorError(error_msg=message)}) == loss
    assert describe_loss({0: RuntimeError("Connection reset")}) is None


def test_losses_without_progress_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    endings = [lost(num_checkpoints=1), *[lost()] * (MAX_RESTARTS + 1)]
    with pytest.raises(WorkerDied, match=rf"{MAX_RESTARTS + 1} times in a row, at last number 0: killed"):
        run(monkeypatch, tmp_path, *endings)
    assert not (tmp_path / "scratch").exists()


def test_a_node_that_is_taken_back_is_not_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups, lines = run(monkeypatch, tmp_path, *[preempted] * (2 * MAX_RESTARTS), finished)
    assert not groups.left
    assert lines[0] == "a node is taken away; resuming without it from the last checkpoint"


def test_an_error_of_the_loop_is_not_retried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="step 3"):
        run(monkeypatch, tmp_path, failed(TrainingDiverged("step 3")), finished)
    assert not (tmp_path / "scratch").exists()


def test_the_mark_of_the_run_that_took_over_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(GroupReplaced):
        run(monkeypatch, tmp_path, failed(GroupReplaced("another")), finished)
    assert (tmp_path / "scratch" / "writer.json").exists()


def test_room_that_cannot_be_had_is_looked_for_less_and_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    regroups = [failed(Regroup(), num_checkpoints=1, world_size=1)] * 3
    groups, lines = run(monkeypatch, tmp_path, *regroups, failed(Regroup(), world_size=2), finished)
    assert groups.grow_after == [GROW_AFTER_SECONDS * factor for factor in (1, 1, 2, 4, 1)]
    assert lines[0] == "there is room for more workers than 1: going on with more"
