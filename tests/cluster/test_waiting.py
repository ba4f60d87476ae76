"""A training that waits says what it waits for."""

from __future__ import annotations

import threading

import pytest

from cluster.session import Session


@pytest.mark.ray
def test_what_is_waited_for_is_said_until_a_worker_has_begun(
    ray_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import waiting

    monkeypatch.setattr(waiting, "MESSAGE_INTERVAL_SECONDS", 0.01)
    said: list[str] = []
    heard = threading.Event()

    def log(line: str) -> None:
        said.append(line)
        heard.set()

    with waiting.wait_messages("1 to 2", heard.is_set, log):
        assert heard.wait(30)
    assert said == [said[0]]
    assert said[0].startswith("waiting for 1 to 2 training workers to begin; ")
