"""The Ray head that the tests of commands share, which one process runs (`group_of` of tests/conftest.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.ray_head import ray_head


@pytest.fixture(scope="session")
def head() -> Iterator[dict[str, str]]:
    """The environment that reaches a Ray head of 2 CPUs, which takes jobs and asks for a token."""
    with ray_head() as environment:
        yield environment
