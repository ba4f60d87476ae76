"""Kills at every step: a function runs again and again, and is stopped before its first, second, third... change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Killed(BaseException):
    """What stands for kill -9: nothing catches it."""


@contextmanager
def killed_before_step(number: int, modules: list[Any], names: tuple[str, ...]) -> Iterator[list[str]]:
    """Inside, call `number` (from 0) of the functions `names` of `modules` raises Killed; yields the calls made."""
    calls: list[str] = []

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(calls) == number:
                raise Killed(f"before {name}{args}")
            calls.append(name)
            return original(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name in names:
                if hasattr(module, name):
                    patch.setattr(module, name, wrapped(name, getattr(module, name)))
        yield calls


def kill_at_every_step(
    prepare: Callable[[], Any], act: Callable[[], Any], check: Callable[[int], Any], modules: list[Any], *names: str
) -> int:
    """prepare, act and be killed, check (given the step); until `act` reaches its end. Returns the number of steps."""
    for number in range(1000):
        prepare()
        with killed_before_step(number, modules, names) as calls:
            try:
                act()
            except Killed:
                pass
            else:
                return len(calls)
        check(number)
    raise AssertionError("it never ends")
