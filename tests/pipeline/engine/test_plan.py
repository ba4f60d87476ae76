"""Plans: wrong edges fail while building, keys say exactly what an artifact is made of."""

from __future__ import annotations

import hashlib
import json

import pytest

from pipeline.core.errors import PlanError
from pipeline.core.stage import Resources
from pipeline.engine.plan import Plan
from pipeline.engine.status import why_make
from pipeline.engine.store import Manifest
from tests.pipeline.engine.toy_stages import CountConfig, SumConfig, add, count, double


def test_a_key_is_the_digest_of_its_identity() -> None:
    node = Plan("toy").add(count, CountConfig(num=2))
    identity = '{"config":{"num":2,"seed":0},"inputs":{},"stage":"count","version":1}'
    assert json.loads(identity)
    assert node.key == f"count-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def test_keys_follow_config_version_and_inputs_and_nothing_else() -> None:
    plan = Plan("toy")
    one = plan.add(count, CountConfig(), name="one")
    same = Plan("other recipe").add(count, CountConfig(), name="other name", resources=Resources(num_workers=9))
    other = plan.add(count, CountConfig(seed=1), name="other")
    assert one.key == same.key != other.key
    doubled = plan.add(double, SumConfig(), name="a", numbers=one)
    redoubled = plan.add(double, SumConfig(), name="b", numbers=other)
    assert doubled.key != redoubled.key
    assert doubled.parents == (one,)


def test_any_number_of_inputs_and_open_edges() -> None:
    plan = Plan("toy")
    parts = [plan.add(count, CountConfig(seed=seed), name=f"part {seed}") for seed in range(3)]
    total = plan.add(add, SumConfig(), parts=parts)
    assert total.parents == tuple(parts)
    assert total.input_keys() == {"parts": [part.key for part in parts], "extra": None}


def test_wrong_edges_name_both_ends_and_the_fix() -> None:
    plan = Plan("toy")
    numbers = plan.add(count, CountConfig())
    total = plan.add(add, SumConfig(), parts=[numbers])
    with pytest.raises(
        PlanError, match=r"again\.numbers \(Numbers\) was given 'add', which makes Total; connect .* Numbers"
    ):
        plan.add(double, SumConfig(), name="again", numbers=total)
    with pytest.raises(PlanError, match=r"double\.numbers \(Numbers\) is not connected; pass numbers="):
        plan.add(double, SumConfig())
    with pytest.raises(PlanError, match="has no input 'nombers'; its inputs are: numbers"):
        plan.add(double, SumConfig(), numbers=numbers, nombers=numbers)
    with pytest.raises(PlanError, match="takes a sequence of nodes"):
        plan.add(add, SumConfig(), name="single", parts=numbers)
    with pytest.raises(PlanError, match="no node of this plan"):
        plan.add(double, SumConfig(), name="stray", numbers=Plan("other").add(count, CountConfig()))
    with pytest.raises(PlanError, match="config is a SumConfig; stage 'count' takes a CountConfig"):
        plan.add(count, SumConfig(), name="wrong config")
    with pytest.raises(PlanError, match="two nodes named 'count'"):
        plan.add(count, CountConfig())
    assert [node.name for node in plan.nodes] == ["count", "add"]


def test_a_setting_without_a_value_is_unset_in_what_changed() -> None:
    node = Plan("toy").add(count, CountConfig(seed=7))
    last = Manifest(
        stage="count", version=1, key="count-1", name="count", recipe="toy", config={"num": None, "seed": 7}, inputs={}
    )
    assert why_make(node, [last], {}) == "config changed: num unset -> 3"
