"""Rewards that are given rather than learnt: the label itself, or the evaluator's own number."""

from __future__ import annotations

import torch

from hero.reward.protocol import Reward
from hero.types import Labelled, Verdict

__all__ = ["LabelReward", "ScoreReward"]

_VALUE = {Verdict.GOOD: 1.0, Verdict.BAD: 0.0}
_NONE = float("nan")


class LabelReward(Reward):
    """1 for good, 0 for bad, NaN for unlabelled."""

    def rewards(self, labelled: Labelled) -> torch.Tensor:
        verdicts = labelled.feedback.verdicts
        return torch.tensor([_VALUE[verdicts[i]] if i in verdicts else _NONE for i in labelled.ids])


class ScoreReward(Reward):
    """The evaluator's own score, NaN where there is none."""

    def rewards(self, labelled: Labelled) -> torch.Tensor:
        return torch.tensor([labelled.feedback.scores.get(i, _NONE) for i in labelled.ids])
