"""DiffusionNFT: towards images that are likely good and away from the others, on the forward process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch

from hero.config import UpdateConfig
from hero.objectives.nft import nft_loss
from hero.policies import Policy
from hero.registry import NFTSettings
from hero.update.forward import ForwardUpdate, Renoised
from hero.update.gradient import Details

__all__ = ["NFT"]


class NFT(ForwardUpdate):
    """Images are drawn by the old policy, which follows the trained one by `old_decay` after each update."""

    FIGURES: ClassVar[Mapping[str, str]] = {
        "moved": "mean squared difference between the predictions of the trained and of the drawing policy, relative "
        "to the error of the latter",
        "pulled": "the same between the trained policy and the base model; only if `pull` is above 0",
    }

    references: tuple[Literal["old", "base"], ...] = ("old",)

    def __init__(self, policy: Policy, config: UpdateConfig, *, seed: int) -> None:
        self.own = config.table(NFTSettings)
        if self.own.pull > 0:
            self.references = ("old", "base")
        super().__init__(policy, config, seed=seed)

    def optimality(self, renoised: Renoised) -> torch.Tensor:
        """r (M,) in [0, 1]."""
        if self.own.optimality == "reward":
            return renoised.rewards.clamp(0, 1)
        return ((renoised.advantages / self.own.advantage_scale).clamp(-1, 1) + 1) / 2

    def loss(self, renoised: Renoised) -> tuple[torch.Tensor, Details]:
        target = renoised.steps.target(renoised.sample, renoised.noise, renoised.t)
        old, output = renoised.references["old"], renoised.output
        loss = nft_loss(output, old, target, self.optimality(renoised), self.own.beta)
        error = _mean_square(old - target)
        details = {"moved": _mean_square(output.detach() - old) / error}
        if self.own.pull > 0:
            apart = _mean_square(output - renoised.references["base"])
            loss = loss + self.own.pull * apart
            details["pulled"] = apart.detach() / error
        return loss, details


def _mean_square(difference: torch.Tensor) -> torch.Tensor:
    return difference.flatten(1).square().mean(dim=1)
