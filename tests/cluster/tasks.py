"""One task of a Ray session, waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.session import Session


def value_of(session: Session, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the task gives; raises what it raised."""
    session.start(name, function, *arguments)
    while not (ended := session.finished(1.0)):
        pass
    if ended[0].error is not None:
        raise ended[0].error
    return ended[0].value
