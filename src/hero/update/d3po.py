"""D3PO on K timesteps of each pair of a good and a bad image: preferences without a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch

from hero.distributed import Workers
from hero.objectives.d3po import d3po_loss
from hero.policies import Conditioning
from hero.progress import OnStep, ignore
from hero.registry import D3POSettings
from hero.seeding import Stage, generator
from hero.types import Judged, UpdateStats
from hero.update.gradient import Details, StepTaken, mean_of
from hero.update.replay import Group, Replayed, ReplayUpdate

__all__ = ["D3PO", "of_one_noise", "some_pairs"]


Pair = tuple[int, int]
"""Rows of a winner and its loser."""


def of_one_noise(judged: Judged) -> tuple[Pair, ...]:
    """The pairs of `judged` whose images started from the very same initial noise."""
    noise = judged.trajectory.initial_noise
    return tuple((winner, loser) for winner, loser in judged.pairs if torch.equal(noise[winner], noise[loser]))


def some_pairs(pairs: Sequence[Pair], most: int, *, seed: int, round_: int) -> tuple[Pair, ...]:
    """At most `most` of `pairs`, each as likely as any other, in their order; a function of the arguments alone."""
    if len(pairs) <= most:
        return tuple(pairs)
    chosen = torch.randperm(len(pairs), generator=generator(seed, Stage.PAIRS, round_))[:most]
    return tuple(pairs[k] for k in sorted(chosen.tolist()))


class D3PO(ReplayUpdate):
    """Each step of a winner becomes likelier, and the same step of its loser less likely; see `hero.objectives.d3po`.

    The reference is the policy that drew the images, so that its log-probabilities are those of sampling.
    """

    FIGURES: ClassVar[Mapping[str, str]] = {
        "pairs": "pairs that were learnt from",
        "margin": "mean of log-ratio of winners − log-ratio of losers, over all replayed steps; above 0 as it learns",
        "pair_accuracy": "share of replayed steps whose winner has gained on its loser; steps before the first update "
        "count one half",
        "clamped_fraction": "share of ratios outside `update.d3po.ratio_range`, which have no gradient",
        "first_margin_deviation": "largest margin, either way, in the first step, before any update; 0 or "
        "[within rounding](decisions.md#18-ratio-one-has-a-stated-tolerance)",
    }

    def step(
        self,
        judged: Judged,
        conditioning: Conditioning,
        round_: int,
        workers: Workers | None = None,
        on_step: OnStep = ignore,
    ) -> UpdateStats | None:
        settings = self.config.table(D3POSettings)
        pairs = of_one_noise(judged) if settings.within == "noise" else judged.pairs
        chosen = some_pairs(pairs, settings.pairs_per_round, seed=self.seed, round_=round_)
        stats = super().step(replace(judged, pairs=chosen), conditioning, round_, workers, on_step)
        return stats and replace(stats, figures={"pairs": float(len(chosen)), **stats.figures})

    def groups(self, judged: Judged) -> Sequence[Group]:
        return judged.pairs

    def loss(self, replayed: Replayed) -> tuple[torch.Tensor, Details]:
        settings = self.config.table(D3POSettings)
        loss, stats = d3po_loss(replayed.log_probs, replayed.old_log_probs, settings.beta, settings.ratio_range)
        return loss, {"margin": stats.margin, "clamped": stats.clamped}

    def figures(self, taken: Sequence[StepTaken]) -> Mapping[str, float]:
        margins = torch.cat([step.details["margin"] for step in taken])
        return {
            "margin": mean_of(taken, "margin"),
            "pair_accuracy": float((0.5 + 0.5 * margins.sign()).mean()),
            "clamped_fraction": mean_of(taken, "clamped"),
            "first_margin_deviation": float(taken[0].details["margin"].abs().max()),
        }
