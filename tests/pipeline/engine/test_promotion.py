"""Registered models and their aliases: who holds one, who is better, and by which test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from pipeline.core.errors import ConfigError
from pipeline.core.files import read_json, write_json
from pipeline.core.stage import Context, stage
from pipeline.engine.plan import Plan
from pipeline.engine.store import Manifest, Store
from pipeline.engine.tracking.registry import RUNS_TAG, register
from pipeline.engine.tracking.runs import TESTS_TAG
from pipeline.engine.tracking.values import Registration
from pipeline.recipes.run_options import RunOptions, check_register
from stages.evaluation.artifacts import Forecast, ForecastErrors
from stages.models.artifacts import Encoder
from tests.pipeline.engine.measured_stages import Films, film
from tests.pipeline.engine.toy_stages import CountConfig
from tests.pipeline.engine.tracked_runs import Tracked, run

METRIC = "forecast_error/LSTM, composite"
NAME = "forecast_error/LSTM composite"


class Learned(Encoder):
    model = None  # the models of these tests are logged by hand


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    skill: float


@dataclass(frozen=True, kw_only=True)
class ForeseeConfig:
    num_windows: int = 3
    pairs: tuple[str, ...] = ()


@stage(version=1)
def learn(config: LearnConfig, context: Context, *, films: Films) -> Learned:
    write_json(f"{context.uri}/skill.json", config.skill)
    return Learned(context.uri, context.key)


@stage(version=1)
def foresee_films(config: ForeseeConfig, context: Context, *, learned: Learned, films: Films) -> Forecast:
    error = 10 - read_json(learned.path("skill.json"))
    forecast = Forecast(context.uri, context.key)
    forecast.write(
        ForecastErrors(
            unit="squared error", num_windows=config.num_windows, num_dims=2, frames_ahead=(1,),
            predictors={"LSTM, composite": (error,)}, means={"LSTM, composite": error}, reconstruction={},
        )
    )  # fmt: skip
    return forecast


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield Store.open(str(tmp_path_factory.mktemp("promoted") / "store"), create=True)
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Trained:
    """A run with results, and its model."""

    tracked: Tracked
    model: Manifest


@dataclass(frozen=True)
class Registry:
    """Runs with results, and the registry of their MLflow."""

    store: Store

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.store.default_tracking_uri)

    def run(
        self, skill: float, *, num: int = 4, test: ForeseeConfig = ForeseeConfig(), learned_from: int = 1
    ) -> Trained:
        """Trains and tests a model: of more skill, on other test data (`num`), by another test, of other videos."""
        plan = Plan("toy")
        learned = plan.add(
            learn, LearnConfig(skill=skill), films=plan.add(film, CountConfig(num=learned_from), name="films to learn")
        )
        plan.add(foresee_films, test, learned=learned, films=plan.add(film, CountConfig(num=num)))
        tracked = run(plan, self.store)
        maker = self.store.find("learn", learned.key)
        assert maker is not None
        model = self.client.create_logged_model(tracked.tracker.experiment_id, "encoder", maker.mlflow_run_id)
        self.client.finalize_logged_model(model.model_id, "READY")
        return Trained(tracked, maker)

    def promote(self, trained: Trained, target: str, metric: str | None = METRIC, *, done: bool = True) -> str:
        return register(
            self.client,
            Registration(
                manifest=trained.model,
                target=target,
                run_id=trained.tracked.tracker.parent_id if done else None,
                description="Made of numbers.",
                if_better=metric,
            ),
        )

    def holder(self, name: str) -> str:
        return str(self.client.get_model_version_by_alias(name, "best").version)


@pytest.fixture
def registry(store: Store) -> Registry:
    return Registry(store)


def test_an_alias_moves_only_to_a_model_that_beats_its_holder_on_the_same_test(registry: Registry) -> None:
    first, worse = registry.run(0.2), registry.run(0.1, learned_from=2)
    better = registry.run(0.3, test=ForeseeConfig(pairs=("compared",)))
    assert registry.promote(first, "walks@best") == (
        f"walks version 1, alias best: {NAME} is 9.8, and no version had the alias"
    )
    assert registry.promote(worse, "walks@best") == (
        f"walks version 2; alias best stays where it is: {NAME} is 9.9, version 1 has 9.8 on the same test"
    )
    assert registry.holder("walks") == "1"
    assert registry.promote(better, "walks@best") == (
        f"walks version 3, alias best: {NAME} is 9.7, version 1 had 9.8 on the same test"
    )
    assert registry.holder("walks") == "3"
    assert "the alias was its own" in registry.promote(better, "walks@best")
    assert registry.client.get_model_version("walks", "3").description == "Made of numbers."


def test_other_tests_never_move_an_alias(registry: Registry) -> None:
    small, other, longer = (
        registry.run(0.2),
        registry.run(0.9, num=7),
        registry.run(0.8, test=ForeseeConfig(num_windows=9)),
    )
    registry.promote(small, "tests@best")
    for one in (other, longer):
        said = registry.promote(one, "tests@best")
        assert "version 1 holds it, and was measured on other test data or with other settings" in said
    assert registry.holder("tests") == "1"
    # Once the holder has been measured there, too, it is compared by that run, and still by the first.
    again = registry.run(0.2, num=7)
    assert again.model.key == small.model.key
    registry.promote(again, "tests@best")
    assert "version 2, alias best: " in registry.promote(other, "tests@best")
    assert "version 2 holds it, and was measured on other test data" in registry.promote(small, "tests@best")


def test_what_cannot_be_compared_leaves_the_alias(registry: Registry) -> None:
    one, two = registry.run(0.5), registry.run(0.6)
    registry.promote(one, "lone@best", None)
    said = registry.promote(two, "lone@best", "accuracy/nobody/5 labels")
    assert f"the run has no metric accuracy/nobody/5 labels; by these it can be compared: {NAME}" in said
    registry.client.set_tag(two.tracked.tracker.parent_id, TESTS_TAG, "{}")
    assert "version 1 holds it, and was measured on other test data" in registry.promote(two, "lone@best")
    registry.client.set_model_version_tag("lone", "1", RUNS_TAG, "0" * 32)
    assert "version 1 holds it, and no run of it has the metric" in registry.promote(two, "lone@best")
    assert registry.holder("lone") == "1"


def test_a_model_is_registered_before_its_run_has_results(registry: Registry) -> None:
    trained = registry.run(0.7)
    assert registry.promote(trained, "early", None, done=False) == "early version 1"
    assert RUNS_TAG not in registry.client.get_model_version("early", "1").tags
    assert registry.promote(trained, "early@best").startswith("early version 1, alias best")


@pytest.mark.parametrize(
    "target",
    [
        "",
        "  ",
        "a/b",
        "a:b",
        "a'b",
        'a"b',
        ".",
        "..",
        "..a",
        "x" * 257,
        "walks@",
        "walks@latest",
        "walks@V12",
        "walks@a b",
    ],
)
def test_names_that_mlflow_would_refuse_are_refused_before_anything_runs(target: str) -> None:
    with pytest.raises(ConfigError, match="register is"):
        check_register(target)
    for good in ("walks", "walks@best", "our walks.2"):
        check_register(good)


def test_a_metric_by_which_nothing_can_be_compared_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="if_better is 'validation_loss/x'; name a metric that begins with one of"):
        replace(RunOptions(), register="walks@best", if_better="validation_loss/x")
    with pytest.raises(ConfigError, match="if_better moves an alias"):
        replace(RunOptions(), register="walks", if_better=METRIC)
