"""The Ray head that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.ray_head import ray_head


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """The environment that reaches a Ray head of 2 CPUs, which takes jobs and asks for a token."""
    with ray_head() as environment:
        yield environment
