"""Questions of an isolated process to the one that started it, such as whether it may make a request now."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

_pipe: Connection[Any, Any] | None = None


def connect(pipe: Connection[Any, Any]) -> None:
    """Sends the questions of this process over a pipe, whose other end answers them."""
    global _pipe
    _pipe = pipe


def ask(question: Any) -> Any:
    """Returns the parent's answer; question and answer must pickle. It may take any time: pause the heartbeat."""
    assert _pipe is not None, "this process was not started by an IsolatedProcess"
    _pipe.send(("ask", question))
    return _pipe.recv()
