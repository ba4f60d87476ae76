"""The pretraining loop: `context.workers.train(pretraining_loop, plan, ...)` runs it on every member of a group.

What a step does is a pure function of (seed, step, global batch, weights): the source deals out the global batch, and
chance inside the model (dropout) is seeded anew at every step. So a resume goes on as if nothing had happened, to the
bit with one worker, and another number of workers changes only the order of sums.

Shapes: T frames, B sequences of this worker's share, D frame dimensions.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from cluster.workers import TrainWorker
from pipeline.errors import ConfigError
from pipeline.files import exists, join, remove, write_json
from stages.datasets.sequences import SequenceSource
from stages.models.checkpoints import newest_checkpoint, write_checkpoint
from stages.models.composite import Composite, CompositeConfig, Losses
from stages.models.feed import Feed
from stages.models.precision import Precision, autocast, slow_on
from stages.models.pretrained import Pretrained
from stages.models.training import DivergenceGuard, OptimizerConfig, build_optimizer, clip_gradients, learning_rate
from stages.models.weights import MODEL_FILE
from stages.percepts.standardisation import Standardisation

HISTORY_FILE = "history.json"
CHECKPOINTS = "checkpoints"
NUM_CURVE_POINTS = 500
"""About so many points has the training curve, however long the training."""
SECONDS_BETWEEN_REPORTS = 1.0
NUM_MEAN_SEQUENCES = 512
"""About so many training sequences make the mean frame that output biases may start at."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All that a worker is told. Pickles; data and model are built where they are used."""

    uri: str
    """Directory of the artifact: model.safetensors, history.json, and meanwhile checkpoints/."""
    open_source: Callable[[], SequenceSource]
    """Sequences of num_frames_in frames and, where the model predicts, num_frames_out more."""
    composite: CompositeConfig
    optimizer: OptimizerConfig
    seed: int
    batch_size: int
    """Sequences of the global batch, over all workers."""
    num_steps: int
    validate_every_steps: int
    max_validation_batches: int
    checkpoint_every_steps: int
    standardisation: Standardisation | None = None
    """The source's, to be kept with the weights."""
    precision: Precision = "auto"
    start_at_mean: bool = False
    """Output biases start where the model says the mean frame of training, whatever its state."""


class Objective(nn.Module):
    """Sequences in, losses out: one call, so that DistributedDataParallel sees the whole of it."""

    def __init__(self, composite: Composite) -> None:
        super().__init__()
        self.composite = composite

    def forward(self, x_TBD: Tensor) -> Losses:
        num_frames_in = self.composite.config.num_frames_in
        past_TBD = x_TBD[:num_frames_in]
        future_TBD = x_TBD[num_frames_in:] if self.composite.config.predicts else None
        return self.composite.losses(self.composite(past_TBD, future_TBD), past_TBD, future_TBD)


def is_finished(uri: str) -> bool:
    """Whether a training has written all its files; history.json is the last."""
    return exists(join(uri, HISTORY_FILE))


def pretraining_loop(plan: TrainingPlan, worker: TrainWorker) -> None:
    """Trains to the end, from the newest checkpoint, and leaves model.safetensors and history.json.

    Raises:
        TrainingDiverged: on every worker; the last good checkpoint stays.
        ConfigError: the global batch has fewer sequences than there are workers.
    """
    if is_finished(plan.uri):
        return
    if plan.batch_size < worker.world_size:
        raise ConfigError(
            f"a batch of {plan.batch_size} sequences cannot be shared by {worker.world_size} workers: "
            "give a larger batch_size, or fewer workers"
        )
    _Trainer(plan, worker).run()


class _Trainer:
    def __init__(self, plan: TrainingPlan, worker: TrainWorker) -> None:
        self.plan, self.worker = plan, worker
        self.source = plan.open_source()
        torch.manual_seed(plan.seed)
        self.composite = Composite(plan.composite)
        self.model = worker.prepare(Objective(self.composite))
        # Trained is the loss a dimension, so that one clipping norm suits any D. The published optimiser wants
        # gradients summed over the batch and the dimensions.
        self.dim = plan.composite.dim
        self.optimizer = build_optimizer(plan.optimizer, self.composite, batch_size=plan.batch_size * self.dim)
        self.max_grad_norm = plan.optimizer.max_grad_norm if plan.optimizer.kind == "adamw" else 0.0
        self.guard = DivergenceGuard()
        self.history: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        self.unchecked: tuple[int, Tensor] | None = None
        self.reported = (time.monotonic(), 0, 0.0)

    def run(self) -> None:
        plan, worker = self.plan, self.worker
        first_step = self._resume()
        if slow_on(plan.precision, worker.device):
            self._log("this CPU has no bfloat16 products of its own: precision=float32 would be faster here")
        with Feed(self.source, plan.batch_size, plan.num_steps, worker.device, worker.rank, worker.world_size) as feed:
            for step in range(first_step, plan.num_steps):
                if step % plan.validate_every_steps == 0:
                    self._validate(step)
                if step % plan.checkpoint_every_steps == 0 and step > first_step:
                    self._checkpoint(step)
                self._step(step, feed.take(step))
                self._report(step + 1, feed)
        self._check()
        self._validate(plan.num_steps)
        self._finish()

    def _step(self, step: int, x_TBD: Tensor) -> None:
        plan, worker = self.plan, self.worker
        torch.manual_seed(_seed_of(plan.seed, step, worker.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(plan.optimizer, step, plan.num_steps)
        with autocast(plan.precision, worker.device):
            losses: Losses = self.model(x_TBD)
        share = x_TBD.shape[1] / plan.batch_size
        # DDP takes the mean over workers, whose shares may differ by a sequence: weigh them to get the batch's mean.
        (losses.total * (share * worker.world_size / self.dim)).backward()  # type: ignore[no-untyped-call]
        values = self._sum_over_workers(_stack(losses).detach() * share)
        grad_norm = clip_gradients(self.composite, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Looked at when the next step is under way: a GPU does not wait for Python to look at its numbers.
        self._check()
        self.unchecked = (step, torch.cat([values, grad_norm]))

    def _check(self) -> None:
        """The guard and the curve, for the step before; a checkpoint is written only of steps that passed."""
        if self.unchecked is None:
            return
        (step, values), self.unchecked = self.unchecked, None
        total, reconstruct_loss, predict_loss, grad_norm = values.tolist()
        self.guard.check(step, total, grad_norm)
        if step % max(1, self.plan.num_steps // NUM_CURVE_POINTS) == 0 or step + 1 == self.plan.num_steps:
            rate = learning_rate(self.plan.optimizer, step, self.plan.num_steps)
            losses = self._named(total, reconstruct_loss, predict_loss)
            self.history["train"].append({"step": step, **losses, "learning_rate": rate, "gradient_norm": grad_norm})

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """Mean losses over the validation sequences, which the workers share; each knows the result."""
        done = self.history["validation"]
        if done and done[-1]["step"] == step:
            return
        self._check()
        self.composite.eval()
        objective, sums = Objective(self.composite), torch.zeros(4, device=self.worker.device)
        batches = islice(self.source.validation_batches(), self.plan.max_validation_batches)
        for number, x in enumerate(batches):
            if number % self.worker.world_size == self.worker.rank:
                x_TBD = torch.from_numpy(np.ascontiguousarray(x)).to(self.worker.device)
                with autocast(self.plan.precision, self.worker.device):
                    losses = _stack(objective(x_TBD))
                sums += torch.cat([losses, torch.ones(1, device=self.worker.device)]) * x_TBD.shape[1]
        self.composite.train()
        total, reconstruct_loss, predict_loss, num_sequences = self._sum_over_workers(sums).tolist()
        assert num_sequences > 0, "the source has no validation sequences"
        losses_of = self._named(*(value / num_sequences for value in (total, reconstruct_loss, predict_loss)))
        done.append({"step": step, **losses_of})
        if self.worker.rank == 0:
            known = {f"validation_{name}": value for name, value in losses_of.items() if value is not None}
            self.worker.metrics(step, **known)

    def _named(self, total: float, reconstruct_loss: float, predict_loss: float) -> dict[str, float | None]:
        config = self.plan.composite
        return {
            "loss": total,
            "reconstruct_loss": reconstruct_loss if config.reconstructs else None,
            "predict_loss": predict_loss if config.predicts else None,
        }

    def _sum_over_workers(self, values: Tensor) -> Tensor:
        if self.worker.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def _report(self, step: int, feed: Feed) -> None:
        """Live progress and curves, at most one a second, from rank 0."""
        now, (before, step_before, waited_before) = time.monotonic(), self.reported
        if self.worker.rank or not self.history["train"]:
            return
        if now - before < SECONDS_BETWEEN_REPORTS and step < self.plan.num_steps:
            return
        self.reported = (now, step, feed.seconds_waited)
        point = self.history["train"][-1]
        self.worker.progress(step, self.plan.num_steps, "steps", f"loss {point['loss']:.4g}")
        elapsed = max(now - before, 1e-9)
        self.worker.metrics(
            point["step"],
            **{name: value for name, value in point.items() if name != "step" and value is not None},
            sequences_per_second=(step - step_before) * self.plan.batch_size / elapsed,
            waiting_for_data=(feed.seconds_waited - waited_before) / elapsed,
        )

    def _resume(self) -> int:
        found = newest_checkpoint(join(self.plan.uri, CHECKPOINTS), self.composite, self.optimizer, self._log)
        if found is None:
            self._start()
            return 0
        step, extra = found
        self.history = extra["history"]
        self.guard.smallest_loss = extra["smallest_loss"]
        self.reported = (time.monotonic(), step, 0.0)
        self._log(f"resuming from step {step} of {self.plan.num_steps}")
        return step

    def _start(self) -> None:
        """Before the first step; every worker finds the same mean, from the first batches whole."""
        plan = self.plan
        if plan.start_at_mean:
            num_batches = -(-NUM_MEAN_SEQUENCES // plan.batch_size)
            means = [self.source.batch(step, plan.batch_size).mean((0, 1)) for step in range(num_batches)]
            self.composite.start_at_mean(torch.from_numpy(np.mean(means, axis=0)))

    def _log(self, line: str) -> None:
        if self.worker.rank == 0:
            self.worker.log(line)

    def _checkpoint(self, step: int) -> None:
        self._check()
        if self.worker.rank == 0:
            extra = {"history": self.history, "smallest_loss": self.guard.smallest_loss}
            self.worker.claim()
            write_checkpoint(join(self.plan.uri, CHECKPOINTS), self.composite, self.optimizer, step, extra)
        self.worker.checkpointed()

    def _finish(self) -> None:
        plan = self.plan
        if self.worker.rank == 0:
            self.worker.claim()
            Pretrained(self.composite, plan.standardisation).save(join(plan.uri, MODEL_FILE))
            write_json(join(plan.uri, HISTORY_FILE), self.history)
            remove(join(plan.uri, CHECKPOINTS))
        self.worker.barrier()


def _stack(losses: Losses) -> Tensor:
    """(3,) float32: total, reconstruction, prediction; 0 for a decoder that is not there."""
    parts = [part if part is not None else torch.zeros_like(losses.total) for part in losses]
    return torch.stack(parts).float()


def _seed_of(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step and worker."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:7])
