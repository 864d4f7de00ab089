"""Policy-gradient update: chosen timesteps of stored trajectories are replayed through the trained policy.

Which timesteps and in which order are functions of (seed, round, image). An optimizer step's transitions are
split into micro-batches whose gradients are summed in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TypeVar

import torch

from hero.config import UpdateConfig
from hero.errors import TrainingError
from hero.objectives.ppo import PPOStats, ppo_loss
from hero.optimizers import load_optimizer_tensors, optimizer_tensors
from hero.policies import Conditioning, Policy
from hero.progress import OnStep, ignore
from hero.seeding import generator
from hero.types import Rewards, Trajectory, UpdateStats

__all__ = ["ReplayUpdate"]

Pair = tuple[int, int]
"""(image, step) of one transition."""


class ReplayUpdate:
    """PPO on K timesteps of each rewarded image (DDPO's update, as HERO uses it)."""

    def __init__(self, policy: Policy, config: UpdateConfig, *, seed: int) -> None:
        self.policy = policy
        self.config = config
        self.seed = seed
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def step(
        self,
        trajectory: Trajectory,
        conditioning: Conditioning,
        rewards: Rewards,
        round_: int,
        on_step: OnStep = ignore,
    ) -> UpdateStats | None:
        """One round's update; None (and nothing changed) where no image has an advantage.

        Raises:
            TrainingError: a loss or gradient that is not finite; no optimizer step was taken with it.
        """
        if not rewards.advantages.any():
            return None
        images = [i for i, rewarded in enumerate(~rewards.rewards.isnan()) if rewarded]
        old_log_probs = trajectory.log_probs.clone()
        pairs = {i: self._choose_steps(trajectory, i, round_) for i in images}
        plan = [
            list(_batched((pair for i in step for pair in pairs[i]), self.config.micro_batch))
            for epoch in range(self.config.inner_epochs)
            for step in _batched(self._shuffle(images, round_, epoch), self.config.images_per_step)
        ]
        on_step("update", 0, len(plan))
        if self._recomputes():
            self._recompute(trajectory, conditioning, plan, old_log_probs)
        losses, norms, stats = [], [], []
        for micro_batches in plan:
            loss, norm, step_stats = self._optimizer_step(
                micro_batches, trajectory, conditioning, rewards.advantages, old_log_probs, round_
            )
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
        order = torch.randperm(len(trainable), generator=generator(self.seed, "timesteps", round_, image))
        chosen = trainable[order[: self.config.timesteps_per_image]]
        return [(image, int(k)) for k in chosen]

    def _shuffle(self, images: list[int], round_: int, epoch: int) -> list[int]:
        order = torch.randperm(len(images), generator=generator(self.seed, "image-order", round_, epoch))
        return [images[int(k)] for k in order]

    def _recomputes(self) -> bool:
        if self.config.recompute_log_probs == "auto":
            return self.policy.storage_dtype != torch.float32 or self.policy.device.type != "cpu"
        return self.config.recompute_log_probs == "always"

    @torch.no_grad()
    def _recompute(
        self,
        trajectory: Trajectory,
        conditioning: Conditioning,
        plan: list[list[tuple[Pair, ...]]],
        old_log_probs: torch.Tensor,
    ) -> None:
        """Old log-probabilities through the training path: half precision depends on the batch's shape."""
        first_epoch = plan[: len(plan) // self.config.inner_epochs]
        for micro_batch in (m for step in first_epoch for m in step):
            images, steps = map(torch.tensor, zip(*micro_batch, strict=True))
            old_log_probs[images, steps] = self._replay(trajectory, conditioning, images, steps).cpu()

    def _replay(
        self, trajectory: Trajectory, conditioning: Conditioning, images: torch.Tensor, steps: torch.Tensor
    ) -> torch.Tensor:
        """(M,) log-probabilities of the stored transitions under the policy as it is now."""
        device = self.policy.device
        rows = conditioning.rows(trajectory.prompt_index[images])
        transition = self.policy.transition(trajectory.latents[images, steps].to(device), steps, rows)
        return transition.log_prob(trajectory.latents[images, steps + 1].to(device))

    def _optimizer_step(
        self,
        micro_batches: list[tuple[Pair, ...]],
        trajectory: Trajectory,
        conditioning: Conditioning,
        advantages: torch.Tensor,
        old_log_probs: torch.Tensor,
        round_: int,
    ) -> tuple[float, float, PPOStats]:
        total = sum(len(m) for m in micro_batches)
        stats, loss_sum = [], 0.0
        self.optimizer.zero_grad()
        for micro_batch in micro_batches:
            images, steps = map(torch.tensor, zip(*micro_batch, strict=True))
            log_probs = self._replay(trajectory, conditioning, images, steps)
            loss, stat = ppo_loss(
                log_probs,
                old_log_probs[images, steps].to(log_probs.device),
                advantages[images].to(log_probs.device),
                self.config.clip_range,
            )
            share = loss.sum() / total
            if not torch.isfinite(share):
                raise TrainingError(
                    f"round {round_}: the loss is {share.item()}; lower update.learning_rate or use model.dtype "
                    "float32; the checkpoint of the round before is intact"
                )
            share.backward()  # type: ignore[no-untyped-call]
            loss_sum += float(share.item())
            stats.append(stat)
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


_Item = TypeVar("_Item")


def _batched(items: Iterable[_Item], size: int) -> list[tuple[_Item, ...]]:
    """Consecutive tuples of `size`, the last one maybe shorter (itertools.batched needs Python 3.12)."""
    iterator = iter(items)
    return list(iter(lambda: tuple(islice(iterator, size)), ()))
