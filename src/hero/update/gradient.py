"""What every update shares: optimizer steps over micro-batches that several processes may differentiate.

An optimizer step's items are split into micro-batches, whose gradients are summed in order; if memory runs out, the
step is retried with smaller ones. A loss that is not finite ends the round before its step is taken. In float16 the
loss is scaled (`hero.update.loss_scale`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hero.batching import batched, halved
from hero.config import UpdateConfig
from hero.distributed import Workers
from hero.errors import TrainingError
from hero.ids import round_of_turn
from hero.policies import Policy
from hero.progress import OnStep
from hero.seeding import Stage, generator
from hero.types import UpdateStats
from hero.update.loss_scale import LossScale
from hero.update.optimizer import load_optimizer_tensors, make_adamw, optimizer_tensors

__all__ = ["Details", "Gradient", "GradientSteps", "StepTaken", "mean_of", "shuffled", "stats_of"]

_Example = TypeVar("_Example")

Details = Mapping[str, torch.Tensor]
"""Figure → its values, one per example; detached."""


@dataclass(frozen=True)
class Gradient:
    """The gradient of one micro-batch's share of the loss, on the CPU; None for parameters it does not depend on."""

    share: float
    details: Details
    gradients: tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class StepTaken:
    """One optimizer step: loss, gradient norm before clipping, and the details of all its examples in order."""

    loss: float
    norm: float
    details: Details


class _GradientOverflow(Exception):
    """A scaled gradient is not finite."""


class GradientSteps:
    """The optimizer of an update and the steps that it takes."""

    def __init__(self, policy: Policy, config: UpdateConfig) -> None:
        self.policy = policy
        self.config = config
        self.micro_batch = config.micro_batch
        self.optimizer = make_adamw(policy.parameters(), config)
        self.scale = LossScale() if policy.storage_dtype == torch.float16 else None

    def differentiate(self, losses: torch.Tensor, total: float, details: Details) -> Gradient:
        """The gradient of Σ `losses` / `total`; each process runs this on its micro-batch.

        Args:
            losses: (M,), one per example of the micro-batch.
            total: as `item_of` was given it (see `take`).
        """
        share = losses.sum() / total
        gradients = torch.autograd.grad(share, self.policy.parameters(), allow_unused=True)
        return Gradient(
            float(share.item()),
            {name: values.detach().cpu() for name, values in details.items()},
            tuple(g if g is None else g.cpu() for g in gradients),
        )

    def take(
        self,
        plan: Sequence[Sequence[_Example]],
        item_of: Callable[[tuple[_Example, ...], float], Any],
        round_: int,
        workers: Workers,
        on_step: OnStep,
        *,
        width: int = 1,
        before_step: Callable[[int, bool], None] | None = None,
    ) -> list[StepTaken]:
        """An optimizer step for each entry of `plan`, by the workers' task `gradient`.

        Args:
            plan: the examples of each step.
            item_of: makes the task's input from the examples of a micro-batch and `total`, by which the sum of their
                losses is to be divided: the number of examples in the step, over the loss scale where there is one.
            width: latents in one example, of which `update.micro_batch` go through the denoiser together.
            before_step: called with the number of steps taken and whether the micro-batch has become smaller since; if
                it runs out of memory, it is retried in the same way.
        """
        on_step("update", 0, len(plan))
        taken: list[StepTaken] = []
        shrunk = overflowed = False
        while len(taken) < len(plan):
            examples = plan[len(taken)]
            try:
                if before_step is not None and not overflowed:
                    before_step(len(taken), shrunk)
                shrunk = overflowed = False
                total = len(examples) if self.scale is None else len(examples) / self.scale.value
                items = [item_of(m, total) for m in batched(examples, max(1, self.micro_batch // width))]
                taken.append(self._optimizer_step(items, round_, workers))
            except _GradientOverflow:
                overflowed = True
                continue
            except torch.OutOfMemoryError:
                self.micro_batch = halved(self.micro_batch, "update.micro_batch")
                shrunk = True
                continue
            on_step("update", len(taken), len(plan))
        return taken

    def _optimizer_step(self, items: Sequence[Any], round_: int, workers: Workers) -> StepTaken:
        details: list[Details] = []
        loss_sum, scale = 0.0, 1.0 if self.scale is None else self.scale.value
        self.optimizer.zero_grad()
        for result in workers.map("gradient", items):
            if not math.isfinite(result.share):
                raise TrainingError(
                    f"round {round_of_turn(round_)}: the loss is {result.share}; lower update.learning_rate or use "
                    "model.dtype bfloat16 or float32; the checkpoint of the previous round is intact"
                )
            for parameter, gradient in zip(self.policy.parameters(), result.gradients, strict=True):
                if gradient is not None:
                    gradient = gradient.to(parameter.device)
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            loss_sum += result.share / scale
            details.append(result.details)
        if self.scale is not None:
            for parameter in self.policy.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(scale)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            if self.scale is not None and self.scale.overflowed():
                raise _GradientOverflow
            raise TrainingError(
                f"round {round_of_turn(round_)}: the gradient is not finite; lower update.learning_rate; "
                "the checkpoint of the previous round is intact"
            )
        self.optimizer.step()
        if self.scale is not None:
            self.scale.step_taken()
        return StepTaken(loss_sum, float(norm), {name: torch.cat([d[name] for d in details]) for name in details[0]})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The optimizer's state, and the loss scale if there is one, as plain tensors."""
        return {**optimizer_tensors(self.optimizer), **(self.scale.state_dict() if self.scale else {})}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""
        load_optimizer_tensors(self.optimizer, {k: v for k, v in state.items() if k != "loss_scale"})
        if self.scale is not None:
            self.scale.load_state_dict(state)


def shuffled(items: Sequence[_Example], seed: int, round_: int, epoch: int) -> list[_Example]:
    """`items` in the order in which a pass over them takes steps."""
    order = torch.randperm(len(items), generator=generator(seed, Stage.IMAGE_ORDER, round_, epoch))
    return [items[int(k)] for k in order]


def stats_of(taken: Sequence[StepTaken], figures: Mapping[str, float]) -> UpdateStats:
    """The figures of one round."""
    return UpdateStats(
        steps=len(taken),
        loss=sum(step.loss for step in taken) / len(taken),
        grad_norm=sum(step.norm for step in taken) / len(taken),
        figures=figures,
    )


def mean_of(taken: Sequence[StepTaken], name: str) -> float:
    """The mean of one detail over all examples of all steps."""
    return float(torch.cat([step.details[name] for step in taken]).float().mean())
