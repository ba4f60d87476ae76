"""A stage is a plain function, checked when it is declared."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, PlanError
from pipeline.core.stage import Artifact, Context, Resources, config_dict, stage
from tests.pipeline.engine.toy_stages import CountConfig, Numbers, SumConfig, Total, add, count, double


def test_a_stage_is_called_as_its_function(tmp_path: Path) -> None:
    numbers = count(CountConfig(num=4, seed=1), Context.for_test(tmp_path / "count"))
    assert numbers.values() == [1, 2, 3, 4]
    doubled = double(SumConfig(), Context.for_test(tmp_path / "double"), numbers=numbers)
    assert doubled.values() == [2, 4, 6, 8]


def test_edges_are_read_from_the_annotations() -> None:
    assert {name: str(edge) for name, edge in add.edges.items()} == {
        "parts": "tuple[Numbers, ...]",
        "extra": "Numbers | None",
    }
    assert add.produces is Total
    assert count.edges == {}


def test_a_stage_pickles_by_name() -> None:
    assert pickle.loads(pickle.dumps(add)) is add


def test_events_reach_the_listener(tmp_path: Path) -> None:
    events: list[object] = []
    context = Context.for_test(tmp_path, emit=events.append)
    count(CountConfig(), context)
    assert context.facts == {"num_frames": 3}
    assert [getattr(event, "done", None) for event in events] == [3]


def test_declarations_that_are_no_stage_are_refused() -> None:
    with pytest.raises(PlanError, match="must take"):

        @stage(version=1)  # type: ignore[arg-type]
        def no_config(config: int, context: Context) -> Numbers:
            raise NotImplementedError

    with pytest.raises(PlanError, match="must return an Artifact"):

        @stage(version=1)  # type: ignore[type-var]
        def no_artifact(config: CountConfig, context: Context) -> int:
            raise NotImplementedError

    with pytest.raises(PlanError, match="keyword-only"):

        @stage(version=1)
        def positional(config: CountConfig, context: Context, numbers: Numbers) -> Numbers:
            raise NotImplementedError

    with pytest.raises(PlanError, match="must be an Artifact"):

        @stage(version=1)
        def not_an_artifact(config: CountConfig, context: Context, *, numbers: list[int]) -> Numbers:
            raise NotImplementedError


def test_config_dict_is_plain_json() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Nested:
        inner: CountConfig
        sizes: tuple[int, ...]

    assert config_dict(Nested(inner=CountConfig(), sizes=(1, 2))) == {"inner": {"num": 3, "seed": 0}, "sizes": [1, 2]}


def test_resources_check_themselves() -> None:
    with pytest.raises(ConfigError, match="at least 1 worker"):
        Resources(num_workers=0)
    with pytest.raises(ConfigError, match="must lie between 1 and num_workers 2"):
        Resources(num_workers=2, min_workers=3)


def test_workers_are_a_number_or_a_range() -> None:
    assert Resources.of_workers("8") == Resources(num_workers=8, min_workers=1)
    assert Resources.of_workers("4:8", gpus_per_worker=0.5) == Resources(
        num_workers=8, min_workers=4, gpus_per_worker=0.5
    )
    assert Resources.of_workers("4:auto") == Resources(num_workers=4, min_workers=4, is_auto_workers=True)
    for wrong in ("many", "1:", ":2", "-1", "0", "8:4", "auto:2", "AUTO", "auto4"):
        with pytest.raises(ConfigError):
            Resources.of_workers(wrong)


def test_artifact_paths() -> None:
    assert Artifact("s3://bucket/stage/key").path("a.json") == "s3://bucket/stage/key/a.json"
