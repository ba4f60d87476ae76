"""A training group that was taken for lost goes on writing, as behind a cut cable, while another trains to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.training.fencing import FencingToken, RayTrainWorker
from pipeline.core.errors import GroupReplaced
from pipeline.core.events import discard
from pipeline.core.stage import Context
from pipeline.core.workers import Workers
from stages.pretrain import pretrain
from tests.stages.made_percepts import make_percepts
from tests.stages.test_pretrain_exact import CONFIG, IN_PARTS, files_of


@dataclass
class CutOff(RayTrainWorker):
    """A group that Ray takes for lost in the middle of its second checkpoint, and that lives on."""

    when_lost: Callable[[], object] = lambda: None
    num_written: int = 0

    def checkpointed(self) -> None:
        self.num_written += 1
        if self.num_written == 2:
            self.when_lost()
        super().checkpointed()


@dataclass(frozen=True)
class LosesItsGroup(Workers):
    """Trains in one group, and in a second one while the first goes on."""

    token: FencingToken = field(default_factory=lambda: FencingToken(""))
    num_checkpoints: list[int] = field(default_factory=list)

    def train(self, loop: Any, payload: Any, **others: Any) -> None:
        def begin(group: type[RayTrainWorker], **more: Any) -> None:
            cpu = torch.device("cpu")
            worker = group("train", discard, 0, 1, cpu, self.token, {"CPU": 1.0}, 1, 60.0, **more)  # type: ignore[call-arg]
            worker.begin()
            try:
                loop(payload, worker)
            finally:
                self.num_checkpoints.append(self.token.read()["num_checkpoints"])

        begin(CutOff, when_lost=lambda: begin(RayTrainWorker))


def test_the_lost_group_is_refused_and_what_the_new_one_wrote_stays(tmp_path: Path) -> None:
    percepts, statistics = make_percepts(tmp_path / "store", {"unlabelled": 20})
    inputs: dict[str, Any] = {"percepts": percepts, "statistics": statistics}
    pretrain(CONFIG, Context.for_test(tmp_path / "undisturbed", resources=IN_PARTS), **inputs)
    workers = LosesItsGroup(token=FencingToken(str(tmp_path / "writer.json")))
    with pytest.raises(GroupReplaced, match="wait for the run that started it"):
        pretrain(CONFIG, Context.for_test(tmp_path / "cut", resources=IN_PARTS, workers=workers), **inputs)
    assert files_of(tmp_path / "cut/out") == files_of(tmp_path / "undisturbed/out")
    assert not (tmp_path / "cut/out/checkpoints").exists()
    second, last = workers.num_checkpoints
    assert second == last > 0, "the lost group wrote nothing over the progress of the new one"
