"""A training that waits: it pauses between looks for room, and says what it waits for."""

from __future__ import annotations

import threading

import pytest

from cluster.session import Session


@pytest.mark.ray
def test_the_controller_pauses_only_where_it_found_no_room(
    ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray reads its authentication mode when it is first imported: the session comes first.
    from ray.train.v2._internal.execution.controller.state import InitializingState, RunningState

    from cluster import waiting

    pauses: list[float] = []
    monkeypatch.setattr(waiting.time, "sleep", pauses.append)
    patience, begins, again = waiting.Patience(), InitializingState(), InitializingState()
    patience.after_controller_state_update(begins, again)
    patience.after_controller_state_update(again, RunningState())
    running = RunningState()
    patience.after_controller_state_update(running, running)
    assert pauses == []
    patience.after_controller_state_update(begins, begins)
    assert pauses == [waiting.POLL_SECONDS]


@pytest.mark.ray
def test_what_is_waited_for_is_said_until_a_worker_has_begun(
    ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import waiting

    monkeypatch.setattr(waiting, "NOTICE_SECONDS", 0.01)
    said: list[str] = []
    heard = threading.Event()

    def log(line: str) -> None:
        said.append(line)
        heard.set()

    with waiting.notices("1 to 2", heard.is_set, log):
        assert heard.wait(30)
    assert said == [said[0]]
    assert said[0].startswith("waiting for 1 to 2 training workers to begin; ")
