"""A training that waits says what it waits for."""

from __future__ import annotations

import threading

import pytest

from cluster.session import Session


@pytest.mark.ray
def test_what_is_waited_for_is_said_until_a_worker_has_begun(
    ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.training import training_group

    monkeypatch.setattr(training_group, "MESSAGE_INTERVAL_SECONDS", 0.01)
    lines: list[str] = []
    is_logged = threading.Event()

    def log(line: str, seconds: float) -> None:
        assert seconds > 0
        lines.append(line)
        is_logged.set()

    with training_group.wait_messages("1 to 2 training workers", is_logged.is_set, log):
        assert is_logged.wait(240)
    assert lines == [lines[0]]
    assert lines[0].startswith("waiting for 1 to 2 training workers to begin; ")
