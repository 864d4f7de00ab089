"""PPO on K timesteps of each rewarded image: DDPO's update, as HERO uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from hero.objectives.ppo import ppo_loss
from hero.registry import PPOSettings
from hero.types import Judged
from hero.update.gradient import Details, StepTaken, mean_of
from hero.update.replay import Group, Replayed, ReplayUpdate

__all__ = ["PPO"]


class PPO(ReplayUpdate):
    """The clipped policy gradient; see `hero.objectives.ppo`."""

    FIGURES: ClassVar[Mapping[str, str]] = {
        "ratio_mean": "mean probability ratio over all replayed transitions",
        "first_ratio_deviation": "largest distance of a ratio from 1 in the first step, before any update; 0 or "
        "[within rounding](decisions.md#18-ratio-one-has-a-stated-tolerance). If it is not small compared with "
        "`update.ppo.clip_range`, something is wrong",
        "kl": "mean of ½(log ratio)², an estimate of the divergence from the sampling policy, with log-probabilities "
        "that are means over dimensions",
        "clip_fraction": "share of transitions whose ratio left the clip range",
    }

    def groups(self, judged: Judged) -> Sequence[Group]:
        if not judged.advantages.any():
            return []
        return [(i,) for i, rewarded in enumerate(~judged.rewards.isnan()) if rewarded]

    def loss(self, replayed: Replayed) -> tuple[torch.Tensor, Details]:
        loss, stats = ppo_loss(
            replayed.log_probs[:, 0],
            replayed.old_log_probs[:, 0],
            replayed.advantages[:, 0],
            self.config.table(PPOSettings).clip_range,
        )
        return loss, {"ratio": stats.ratio, "kl": stats.kl, "clipped": stats.clipped}

    def figures(self, taken: Sequence[StepTaken]) -> Mapping[str, float]:
        return {
            "ratio_mean": mean_of(taken, "ratio"),
            "first_ratio_deviation": float((taken[0].details["ratio"] - 1).abs().max()),
            "kl": mean_of(taken, "kl"),
            "clip_fraction": mean_of(taken, "clipped"),
        }
