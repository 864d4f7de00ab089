"""Policy-gradient update: chosen timesteps of stored trajectories are replayed through the trained policy.

Which timesteps and in which order are functions of (seed, round, image). An optimizer step's transitions are
split into micro-batches, which several processes may share, and whose gradients are summed in order; where memory runs
out the step is taken again with smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from hero.batching import batched, halved
from hero.config import UpdateConfig
from hero.distributed import Alone, Work, Workers
from hero.errors import TrainingError
from hero.objectives.ppo import PPOStats, ppo_loss
from hero.policies import Conditioning, Policy
from hero.progress import OnStep, ignore
from hero.seeding import Stage, generator
from hero.transitions import Transition
from hero.types import Rewards, Trajectory, UpdateStats
from hero.update.optimizer import load_optimizer_tensors, make_adamw, optimizer_tensors

__all__ = ["ReplayUpdate"]

Pair = tuple[int, int]
"""(image, step) of one transition."""


@dataclass(frozen=True)
class _Transitions:
    """M stored transitions: everything about them but the model.

    Attributes:
        latents, following: (M, C, h, w), before and after the step.
        steps: (M,) int64.
        prompt_index: (M,) int64.
        old_log_probs, advantages: (M,).
        total: transitions behind the optimizer step.
    """

    latents: torch.Tensor
    following: torch.Tensor
    steps: torch.Tensor
    prompt_index: torch.Tensor
    old_log_probs: torch.Tensor
    advantages: torch.Tensor
    total: int

    @classmethod
    def of(
        cls,
        pairs: Sequence[Pair],
        trajectory: Trajectory,
        advantages: torch.Tensor,
        old_log_probs: torch.Tensor,
        total: int,
    ) -> _Transitions:
        images, steps = map(torch.tensor, zip(*pairs, strict=True))
        return cls(
            trajectory.latents[images, steps],
            trajectory.latents[images, steps + 1],
            steps,
            trajectory.prompt_index[images],
            old_log_probs[images, steps],
            advantages[images],
            total,
        )


@dataclass(frozen=True)
class _Gradient:
    """Of one micro-batch's share of the loss; None for a parameter that it does not depend on."""

    share: float
    stats: PPOStats
    gradients: tuple[torch.Tensor | None, ...]


class ReplayUpdate:
    """PPO on K timesteps of each rewarded image (DDPO's update, as HERO uses it)."""

    def __init__(self, policy: Policy, config: UpdateConfig, *, seed: int) -> None:
        self.policy = policy
        self.config = config
        self.seed = seed
        self.micro_batch = config.micro_batch
        self.optimizer = make_adamw(policy.parameters(), config)

    def tasks(self, conditioning: Conditioning) -> Mapping[str, Work]:
        """What every process of the run does for this update, `conditioning` having a row per prompt of the run."""
        return {
            "gradient": partial(self._gradient, conditioning),
            "log-probs": partial(self._log_probs, conditioning),
        }

    def step(
        self,
        trajectory: Trajectory,
        conditioning: Conditioning,
        rewards: Rewards,
        round_: int,
        workers: Workers | None = None,
        on_step: OnStep = ignore,
    ) -> UpdateStats | None:
        """One round's update; None (and nothing changed) where no image has an advantage.

        Args:
            workers: the processes that do `tasks`; None: this one.

        Raises:
            TrainingError: a loss or gradient that is not finite; no optimizer step was taken with it.
        """
        if not rewards.advantages.any():
            return None
        images = [i for i, rewarded in enumerate(~rewards.rewards.isnan()) if rewarded]
        old_log_probs = trajectory.log_probs.clone()
        pairs = {i: self._choose_steps(trajectory, i, round_) for i in images}
        plan = [
            [pair for i in step for pair in pairs[i]]
            for epoch in range(self.config.inner_epochs)
            for step in batched(self._shuffle(images, round_, epoch), self.config.images_per_step)
        ]
        on_step("update", 0, len(plan))
        workers = workers or Alone(self.tasks(conditioning))
        losses: list[float] = []
        norms: list[float] = []
        stats: list[PPOStats] = []
        while len(stats) < len(plan):
            # Old log-probabilities belong to a batch shape, so they are computed again where that shrinks.
            renew = self._recomputes() and not stats
            try:
                if renew:
                    self._recompute(trajectory, plan, old_log_probs, workers)
                pairs_of_step = plan[len(stats)]
                items = [
                    _Transitions.of(m, trajectory, rewards.advantages, old_log_probs, len(pairs_of_step))
                    for m in batched(pairs_of_step, self.micro_batch)
                ]
                loss, norm, step_stats = self._optimizer_step(items, round_, workers)
            except torch.OutOfMemoryError:
                self.micro_batch = halved(self.micro_batch, "update.micro_batch")
                continue
            losses.append(loss)
            norms.append(norm)
            stats.append(step_stats)
            on_step("update", len(stats), len(plan))
        return UpdateStats(
            steps=len(plan),
            loss=sum(losses) / len(losses),
            ratio_mean=_mean([s.ratio for s in stats]),
            first_ratio_deviation=float((stats[0].ratio - 1).abs().max()),
            kl=_mean([s.kl for s in stats]),
            clip_fraction=_mean([s.clipped.float() for s in stats]),
            grad_norm=sum(norms) / len(norms),
        )

    def _choose_steps(self, trajectory: Trajectory, image: int, round_: int) -> list[Pair]:
        trainable = trajectory.trainable.nonzero().flatten()
        order = torch.randperm(len(trainable), generator=generator(self.seed, Stage.TIMESTEPS, round_, image))
        chosen = trainable[order[: self.config.timesteps_per_image]]
        return [(image, int(k)) for k in chosen]

    def _shuffle(self, images: list[int], round_: int, epoch: int) -> list[int]:
        order = torch.randperm(len(images), generator=generator(self.seed, Stage.IMAGE_ORDER, round_, epoch))
        return [images[int(k)] for k in order]

    def _recomputes(self) -> bool:
        if self.config.recompute_log_probs == "auto":
            return self.policy.storage_dtype != torch.float32 or self.policy.device.type != "cpu"
        return self.config.recompute_log_probs == "always"

    def _recompute(
        self,
        trajectory: Trajectory,
        plan: list[list[Pair]],
        old_log_probs: torch.Tensor,
        workers: Workers,
    ) -> None:
        """Old log-probabilities through the training path: half precision depends on the batch's shape."""
        first_epoch = plan[: len(plan) // self.config.inner_epochs]
        micro_batches = [m for step in first_epoch for m in batched(step, self.micro_batch)]
        unknown = torch.zeros(len(trajectory))
        items = [_Transitions.of(m, trajectory, unknown, old_log_probs, len(m)) for m in micro_batches]
        for pairs, log_probs in zip(micro_batches, workers.map("log-probs", items), strict=True):
            images, steps = map(torch.tensor, zip(*pairs, strict=True))
            old_log_probs[images, steps] = log_probs

    @torch.no_grad()
    def _log_probs(self, conditioning: Conditioning, item: _Transitions) -> torch.Tensor:
        return self._replay(conditioning, item).log_prob(item.following.to(self.policy.device)).cpu()

    def _replay(self, conditioning: Conditioning, item: _Transitions) -> Transition:
        """The stored transitions under the policy as it is now."""
        rows = conditioning.rows(item.prompt_index)
        return self.policy.transition(item.latents.to(self.policy.device), item.steps, rows)

    def _gradient(self, conditioning: Conditioning, item: _Transitions) -> _Gradient:
        transition = self._replay(conditioning, item)
        log_probs = transition.log_prob(item.following.to(self.policy.device))
        loss, stats = ppo_loss(
            log_probs,
            item.old_log_probs.to(log_probs.device),
            item.advantages.to(log_probs.device),
            self.config.clip_range,
        )
        if self.config.timestep_weight == "std":
            loss = transition.std.flatten() * loss
        share = loss.sum() / item.total
        gradients = torch.autograd.grad(share, self.policy.parameters(), allow_unused=True)
        on_cpu = PPOStats(stats.ratio.cpu(), stats.kl.cpu(), stats.clipped.cpu())
        return _Gradient(float(share.item()), on_cpu, tuple(g if g is None else g.cpu() for g in gradients))

    def _optimizer_step(
        self, items: list[_Transitions], round_: int, workers: Workers
    ) -> tuple[float, float, PPOStats]:
        stats, loss_sum = [], 0.0
        self.optimizer.zero_grad()
        for result in workers.map("gradient", items):
            if not math.isfinite(result.share):
                raise TrainingError(
                    f"round {round_}: the loss is {result.share}; lower update.learning_rate or use model.dtype "
                    "float32; the checkpoint of the round before is intact"
                )
            for parameter, gradient in zip(self.policy.parameters(), result.gradients, strict=True):
                if gradient is not None:
                    gradient = gradient.to(parameter.device)
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            loss_sum += result.share
            stats.append(result.stats)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"round {round_}: the gradient is not finite; lower update.learning_rate; "
                "the checkpoint of the round before is intact"
            )
        self.optimizer.step()
        merged = PPOStats(*(torch.cat([getattr(s, f) for s in stats]) for f in ("ratio", "kl", "clipped")))
        return loss_sum, float(norm), merged

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The optimizer's state as plain tensors."""
        return optimizer_tensors(self.optimizer)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """The inverse of `state_dict`."""
        load_optimizer_tensors(self.optimizer, state)


def _mean(parts: list[torch.Tensor]) -> float:
    return float(torch.cat(parts).mean())
