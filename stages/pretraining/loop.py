"""The pretraining loop: `context.workers.train(pretraining_loop, plan, ...)` runs it on every worker of a group.

What a step does is a pure function of (seed, step, global batch, weights): the source deals out the global batch, and
chance inside the model (dropout) is seeded anew at every step. So a resume goes on as if nothing had happened, to the
bit with one worker, and another number of workers changes only the order of sums.

Shapes: T frames, B sequences of this worker's share, D frame dimensions.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.core.errors import ConfigError, CorruptArtifact, TrainingDiverged
from pipeline.core.files import exists, join, remove
from pipeline.core.workers import TrainWorker
from stages.datasets.augmentation import augment
from stages.datasets.sequences import Frames
from stages.datasets.sequences import share as share_of
from stages.models.artifacts import HISTORY_FILE, TrainingHistory
from stages.models.composite import Composite, Losses
from stages.models.config import MODEL_FILE
from stages.models.feedback import Feedback, read_own_frames
from stages.models.pretrained import Pretrained
from stages.pretraining import checkpoints
from stages.pretraining.cuda_graph import CapturedGradients, Gradients, capture_for
from stages.pretraining.eager import manual_seed
from stages.pretraining.optimisation import (
    DivergenceGuard,
    ExponentialMovingAverage,
    autocast,
    build_optimizer,
    clip_gradients,
    learning_rate,
    slow_on,
    start_reading,
)
from stages.pretraining.prefetcher import Prefetcher
from stages.pretraining.published import draw_published_weights_, summed_loss
from stages.pretraining.resource_errors import translate_resource_errors
from stages.pretraining.telemetry import Telemetry
from stages.pretraining.training_plan import CHECKPOINTS, TrainingPlan

NUM_CURVE_POINTS = 500
"""The approximate number of points of a training curve, however long the training."""
NUM_FIRST_SEQUENCES = 512
"""The approximate number of training sequences behind weights that do not start at random: a mean, a regression."""


class Objective(nn.Module):
    """The losses of sequences in one call, so that DistributedDataParallel sees the whole of it."""

    def __init__(self, composite: Composite) -> None:
        super().__init__()
        self.composite = composite

    def forward(self, x_TBD: Tensor, feedback: Feedback | None = None) -> Losses:
        """Returns the losses of sequences (T, B, D) of `num_frames` frames; `feedback`: see `Composite.forward`."""
        past_TBD, future_TBD = self._parts(x_TBD)
        return self.composite.losses(self.composite(past_TBD, future_TBD, feedback), past_TBD, future_TBD)

    def open_loop(self, x_TBD: Tensor) -> Losses:
        """Returns the losses of sequences (T, B, D) whose conditional decoders read nothing but their own frames."""
        past_TBD, future_TBD = self._parts(x_TBD)
        return self.composite.losses(self.composite.open_loop(past_TBD), past_TBD, future_TBD)

    def _parts(self, x_TBD: Tensor) -> tuple[Tensor, Tensor | None]:
        num_frames_in = self.composite.config.num_frames_in
        return x_TBD[:num_frames_in], x_TBD[num_frames_in:] if self.composite.config.predicts else None


def is_finished(uri: str) -> bool:
    """Returns whether a training has written all its files; history.json is the last."""
    return exists(join(uri, HISTORY_FILE))


def pretraining_loop(plan: TrainingPlan, worker: TrainWorker) -> None:
    """Trains to the end, from the newest checkpoint, and leaves model.safetensors and history.json.

    Raises:
        TrainingDiverged: a loss or gradient is not finite, or has exploded; on every worker.
        OutOfMemory: the memory of this machine or of a GPU is full.
        StoreError: no space is left for a checkpoint.
        CorruptArtifact: the data have changed since the training began, or no checkpoint is whole.
        ConfigError: the global batch has fewer sequences than there are workers, or `num_passes` was given for a source
          without end; or whatever opening the source raises.

    The last good checkpoint stays.
    """
    if is_finished(plan.uri):
        return
    if plan.training.batch_size < worker.world_size:
        raise ConfigError(
            f"a batch of {plan.training.batch_size} sequences cannot be shared by {worker.world_size} workers: "
            "give a larger batch_size, or fewer workers"
        )
    with translate_resource_errors(plan.uri, plan.num_at_once(worker.world_size), lambda: _how_to_resume(plan)):
        _Trainer(plan, worker).run()


def _how_to_resume(plan: TrainingPlan) -> str:
    step = checkpoints.newest_step(plan.checkpoints)
    return "the next run begins anew" if step is None else f"the next run goes on from the checkpoint of step {step}"


class _Trainer:
    def __init__(self, plan: TrainingPlan, worker: TrainWorker) -> None:
        self.plan, self.config, self.worker = plan, plan.training, worker
        self.source = plan.open_source(worker.log)
        manual_seed(self.config.seed)
        self.composite = Composite(plan.model)
        if self.config.initial_weights == "published":
            draw_published_weights_(self.composite)
        self.model = worker.prepare(Objective(self.composite))
        slow, share = self.composite.reading_weights(), self.config.feedback.input_rate
        self.optimizer = build_optimizer(self.config.optimizer, self.composite, slow=slow, share=share)
        self.rate_shares = [group["lr"] / self.config.optimizer.learning_rate for group in self.optimizer.param_groups]
        self.max_grad_norm = self.config.optimizer.max_grad_norm if self.config.optimizer.kind == "adamw" else 0.0
        decay = self.config.weights.average_decay
        self.average = ExponentialMovingAverage(self.composite, decay) if decay else None
        self.averaged = None if self.average is None else self.average.module
        self.kept = self.averaged or self.composite
        """The weights that are validated, and become the model."""
        self.guard = DivergenceGuard()
        self.history: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        self.unchecked: tuple[int, Callable[[], list[float]]] | None = None
        self.num_steps = self.config.steps(self.source.num_sequences)
        self.telemetry = Telemetry(worker, self.num_steps, self.config.batch_size, self.source.num_sequences)

    def run(self) -> None:
        worker = self.worker
        # Not an attribute: a bound method of its own would keep a finished training, and its memory, alive.
        gradients = self._captured_gradients()
        first_step = self._resume()
        if slow_on(self.config.precision, worker.device):
            self._log("this CPU has no bfloat16 products of its own: --pretrain.precision float32 would be faster here")
        with Prefetcher(
            self.source, self.config.batch_size, self.num_steps, worker.device, worker.rank, worker.world_size
        ) as prefetcher:
            num_done = first_step
            while num_done < self.num_steps and not self._ends_at(num_done):
                if num_done % self.config.checkpoint_every_steps == 0 and num_done > first_step:
                    self._checkpoint(num_done)
                self._step(num_done, prefetcher.batch(num_done), gradients)
                num_done += 1
                if self.history["train"]:
                    self.telemetry.report(num_done, self.history["train"][-1], prefetcher.seconds_waited)
        self._check()
        self._validate(num_done)
        self._finish(num_done)

    def _captured_gradients(self) -> Gradients:
        """Returns what leaves a batch's gradients in the weights and returns the batch's losses, (3,)."""
        capture = capture_for(self.worker.device, self.worker.world_size)
        if capture is None:
            return self._add_up_gradients
        return CapturedGradients(self._add_up_gradients, self.composite.parameters(), capture)

    def _ends_at(self, num_done: int) -> bool:
        """Validates where it is time to, and returns whether the validation loss has reached a plateau."""
        if num_done % self.config.validate_every_steps == 0:
            self._validate(num_done)
        stalled = checkpoints.has_plateaued(self.config.early_stop, self.history["validation"])
        if stalled:
            best = checkpoints.best_step(self.history["validation"])
            self._log(f"ending after step {num_done} of {self.num_steps}: no better validation since step {best}")
        return stalled

    def _step(self, step: int, x_TBD: Tensor, gradients: Gradients) -> None:
        worker = self.worker
        manual_seed(_seed_of(self.config.seed, step, worker.rank))
        rate = learning_rate(self.config.optimizer, step, self.num_steps)
        for group, share in zip(self.optimizer.param_groups, self.rate_shares, strict=True):
            group["lr"] = rate * share
        x_TBD = augment(
            self.config.augmentation,
            x_TBD,
            seed=self.config.seed,
            step=step,
            batch_size=self.config.batch_size,
            rank=worker.rank,
            world_size=worker.world_size,
        )
        values = self._sum_over_workers(gradients(x_TBD, self._is_own(step)))
        grad_norm = clip_gradients(self.composite, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.composite, step)
        # Looked at when the next step is under way: a GPU does not wait for Python to look at its numbers.
        self._check()
        self.unchecked = (step, start_reading(torch.cat([values, grad_norm])))

    def _is_own(self, step: int) -> Tensor | None:
        """Draws which frames of this worker's share conditional decoders read from themselves: (S, B) bool."""
        plan, worker = self.plan, self.worker
        if not self.config.feedback:
            return None
        is_own_SB = read_own_frames(
            self.config.feedback,
            seed=self.config.seed,
            step=step,
            num_steps=self.num_steps,
            num_reads=max(plan.model.num_frames_in, plan.model.num_frames_out) - 1,
            batch_size=self.config.batch_size,
            rows=share_of(self.config.batch_size, worker.rank, worker.world_size),
        )
        return None if is_own_SB is None else is_own_SB.to(worker.device, non_blocking=True)

    def _add_up_gradients(self, x_TBD: Tensor, is_own_SB: Tensor | None) -> Tensor:
        """Adds up the gradients of this worker's share, part by part; returns its share of the batch's losses, (3,)."""
        plan, worker = self.plan, self.worker
        parts = torch.split(x_TBD, plan.num_at_once(worker.world_size), dim=1)
        values, begin = torch.zeros(3, device=worker.device), 0
        for number, part_TBD in enumerate(parts):
            end = begin + part_TBD.shape[1]
            feedback, noise_std = None, self.config.feedback.noise_std
            if is_own_SB is not None or noise_std:
                own_SB = None if is_own_SB is None else is_own_SB[:, begin:end]
                feedback = Feedback(own_SB, self.config.feedback.num_passes, noise_std)
            begin, share = end, part_TBD.shape[1] / self.config.batch_size
            adds_up = number + 1 < len(parts)  # DDP's sum over the workers is made once, at the last part
            model = self.model
            with model.no_sync() if adds_up and isinstance(model, DistributedDataParallel) else nullcontext():
                with autocast(self.config.precision, worker.device):
                    losses: Losses = self.model(part_TBD.contiguous(), feedback)
                # DDP takes the mean over workers, whose shares may differ by a sequence: weigh them to get the
                # batch's mean.
                (self._trained(losses) * (share * worker.world_size)).backward()  # type: ignore[no-untyped-call]
            values += _stack(losses).detach() * share
        return values

    def _trained(self, losses: Losses) -> Tensor:
        """Returns the scalar whose gradient is taken, of a global batch with these mean losses."""
        if self.config.optimizer.kind == "published":
            return summed_loss(losses, self.plan.model, num_sequences=self.config.batch_size)
        # The loss per dimension, so that one clipping norm suits any D.
        return losses.total / self.plan.model.dim

    def _check(self) -> None:
        """Applies the guard to the step before, and adds it to the curve; only steps that passed are checkpointed."""
        if self.unchecked is None:
            return
        (step, read), self.unchecked = self.unchecked, None
        total, reconstruct_loss, predict_loss, grad_norm = read()
        self.guard.check(step, total, grad_norm)
        if step % max(1, self.num_steps // NUM_CURVE_POINTS) == 0 or step + 1 == self.num_steps:
            rate = learning_rate(self.config.optimizer, step, self.num_steps)
            losses = self._named(total, reconstruct_loss, predict_loss)
            self.history["train"].append({"step": step, **losses, "learning_rate": rate, "gradient_norm": grad_norm})

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """Computes mean losses over the validation sequences, which the workers share; each has the result.

        Of a training with feedback they are those of the open loop, which it is for: what is kept, and when it ends
        early, is then decided by frames that a decoder predicts from its own.
        """
        done = self.history["validation"]
        if done and done[-1]["step"] == step:
            return
        self._check()
        self.kept.eval()
        objective, sums = Objective(self.kept), torch.zeros(4, device=self.worker.device)
        measure = objective.open_loop if self.config.feedback else objective
        batches = islice(self.source.validation_batches(), self.config.max_validation_batches)
        for number, x in enumerate(batches):
            if number % self.worker.world_size == self.worker.rank:
                x_TBD = torch.from_numpy(np.ascontiguousarray(x)).to(self.worker.device)
                with autocast(self.config.precision, self.worker.device):
                    losses = _stack(measure(x_TBD))
                sums += torch.cat([losses, torch.ones(1, device=self.worker.device)]) * x_TBD.shape[1]
        self.kept.train()
        total, reconstruct_loss, predict_loss, num_sequences = self._sum_over_workers(sums).tolist()
        assert num_sequences > 0, "the source has no validation sequences"
        losses_of = self._named(*(value / num_sequences for value in (total, reconstruct_loss, predict_loss)))
        if not math.isfinite(total):
            raise TrainingDiverged(f"the validation loss at step {step} is {total}: lower the learning rate")
        done.append({"step": step, **losses_of})
        if self.worker.rank == 0 and self.config.weights.keep == "best" and checkpoints.best_step(done) == step:
            self.worker.check_fencing_token()
            checkpoints.write_best(self.plan.checkpoints, self.kept, step)
        if self.worker.rank == 0:
            known = {f"validation_{name}": value for name, value in losses_of.items() if value is not None}
            self.worker.metrics(step, **known)

    def _named(self, total: float, reconstruct_loss: float, predict_loss: float) -> dict[str, float | None]:
        config = self.plan.model
        return {
            "loss": total,
            "reconstruct_loss": reconstruct_loss if config.reconstructs else None,
            "predict_loss": predict_loss if config.predicts else None,
        }

    def _sum_over_workers(self, values: Tensor) -> Tensor:
        if self.worker.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def _resume(self) -> int:
        checkpoint = checkpoints.newest_checkpoint(
            self.plan.checkpoints, self.composite, self.optimizer, self._log, average=self.averaged
        )
        if checkpoint is None:
            self._start()
            return 0
        step, extra = checkpoint
        if extra["data"] != self.source.digest():
            raise CorruptArtifact(
                f"the training in {self.plan.uri} began on data that have changed since: restore them, or remove its "
                f"directory {CHECKPOINTS} to begin anew on these"
            )
        self.history = extra["history"]
        self.guard.smallest_loss = extra["smallest_loss"]
        self.telemetry.begin(step)
        self._log(f"resuming from step {step} of {self.num_steps}")
        return step

    def _start(self) -> None:
        """Sets the weights before the first step; every worker computes the same ones, from whole first batches."""
        if self.plan.warm_start is not None:
            self.composite.load_state_dict(Pretrained.load(self.plan.warm_start).composite.state_dict())
        else:
            self.composite.fit_autoregression(torch.from_numpy(x_TBD) for x_TBD in self._first_batches())
            if self.config.feedback.input_rate < 1:  # conditional decoders begin as unconditional ones
                for weight in self.composite.reading_weights():
                    nn.init.zeros_(weight)
        if self.config.start_at_mean:
            means = [x_TBD.mean((0, 1)) for x_TBD in self._first_batches()]
            self.composite.start_at_mean(torch.from_numpy(np.mean(means, axis=0)))
        if self.averaged is not None:
            self.averaged.load_state_dict(self.composite.state_dict())

    def _first_batches(self) -> Iterator[Frames]:
        """Yields the whole first batches of training, of about NUM_FIRST_SEQUENCES sequences."""
        for step in range(-(-NUM_FIRST_SEQUENCES // self.config.batch_size)):
            yield self.source.batch(step, self.config.batch_size)

    def _log(self, line: str) -> None:
        if self.worker.rank == 0:
            self.worker.log(line)

    def _checkpoint(self, step: int) -> None:
        self._check()
        self.source.check_unchanged()
        if self.worker.rank == 0:
            self.worker.check_fencing_token()
            checkpoints.write_checkpoint(
                self.plan.checkpoints,
                self.composite,
                self.optimizer,
                step,
                {"history": self.history, "smallest_loss": self.guard.smallest_loss, "data": self.source.digest()},
                average=self.averaged,
                num_kept=self.plan.num_checkpoints_kept,
            )
        self.worker.checkpointed()

    def _finish(self, num_done: int) -> None:
        plan = self.plan
        self.source.check_unchanged()
        if self.worker.rank == 0:
            self.worker.check_fencing_token()
            validations, kept_step = self.history["validation"], num_done
            if self.config.weights.keep == "best":
                kept_step = checkpoints.best_step(validations)
                checkpoints.restore_best(plan.checkpoints, self.kept, validations)
            Pretrained(self.kept, plan.transform, plan.extractor).save(join(plan.uri, MODEL_FILE))
            history = TrainingHistory(
                train=tuple(self.history["train"]),
                validation=tuple(validations),
                num_steps=num_done,
                kept_step=kept_step,
                num_sequences=self.source.num_sequences,
                amounts=dict(self.source.amounts),
            )
            history.write(join(plan.uri, HISTORY_FILE))
            remove(plan.checkpoints)
        self.worker.barrier()


def _stack(losses: Losses) -> Tensor:
    """Returns total, reconstruction and prediction, (3,) float32; 0 for a decoder that is not there."""
    parts = [part if part is not None else torch.zeros_like(losses.total) for part in losses]
    return torch.stack(parts).float()


def _seed_of(seed: int, step: int, rank: int) -> int:
    """Returns a seed of its own for every step and worker."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:7])
