"""What the current reward thinks of images that nobody has judged yet: the probability that a person calls them good.

The reward is the similarity to the best image so far. How it translates into a probability is fitted to the labels of
the last rounds, whose images are in the checkpoints, so that a resumed run suggests the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from hero.feedback.store import LabelStore
from hero.learner import Learner
from hero.rewards import similarity
from hero.types import ImageId, Verdict, image_id

__all__ = ["Calibration", "Suggester", "calibrate"]

_ROUNDS = 2
"""Earlier rounds that are fitted to; the checkpoints keep as many."""
_RIDGE = 1.0
"""Against a slope without bound where the reward tells good from bad without fault; weighs as a few labels do."""


@dataclass(frozen=True)
class Calibration:
    """P(good | reward R) = σ(slope · (R − centre)/scale + offset), slope ≥ 0."""

    centre: float
    scale: float
    slope: float
    offset: float

    def __call__(self, reward: float) -> float:
        """The probability of good, in [0, 1]."""
        return float(expit(self.slope * (reward - self.centre) / self.scale + self.offset))


def calibrate(rewards: Sequence[float], good: Sequence[bool]) -> Calibration | None:
    """A logistic fit of labels to rewards (Platt 1999, with his smoothed targets); None without both kinds of label."""
    r, y = np.asarray(rewards, dtype=float), np.asarray(good, dtype=bool)
    if not (y.any() and (~y).any()):
        return None
    centre, scale = float(r.mean()), float(r.std()) or 1.0
    x = (r - centre) / scale
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))

    def loss(parameters: np.ndarray[Any, Any]) -> float:
        z = parameters[0] * x + parameters[1]
        return float((np.logaddexp(0, z) - target * z).sum() + _RIDGE * parameters[0] ** 2)

    fitted = minimize(loss, np.array([1.0, math.log(y.mean() / (1 - y.mean()))]), bounds=[(0, None), (None, None)])
    return Calibration(centre, scale, float(fitted.x[0]), float(fitted.x[1]))


class Suggester:
    """Suggestions for the images of a run as they are drawn, by what it has learnt so far."""

    def __init__(self, learner: Learner, store: LabelStore) -> None:
        self._learner = learner
        self._store = store
        self._fitted_for = 0
        self._calibration: Calibration | None = None

    def __call__(
        self, round_: int, ids: Sequence[ImageId], final_latents: torch.Tensor, prompts: Sequence[str]
    ) -> dict[ImageId, dict[str, str | float]]:
        """Image → {"verdict": "good" or "bad", "score": probability of good}; empty where there is nothing to go by.

        That is: in the first round, for rewards that are the labels themselves, or before anything was fitted. Images
        of a prompt without a best image are left out.

        Args:
            round_: the round of these images; the ones before it are learnt from.
            final_latents: (N, C, h, w).
        """
        learner = self._learner
        if not (learner.config.reward.kind.startswith("similarity") and learner.representation.fitted):
            return {}
        if self._fitted_for != round_:
            self._calibration, self._fitted_for = self._fit(round_), round_
        if self._calibration is None:
            return {}
        index = torch.tensor([learner.config.task.prompts.index(prompt) for prompt in prompts])
        said: dict[ImageId, dict[str, str | float]] = {}
        for i, reward in zip(ids, self._rewards(final_latents, index).tolist(), strict=True):
            if not math.isnan(reward):
                score = self._calibration(reward)
                said[i] = {"verdict": str(Verdict.GOOD if score >= 0.5 else Verdict.BAD), "score": score}
        return said

    def _fit(self, round_: int) -> Calibration | None:
        rewards: list[float] = []
        good: list[bool] = []
        for earlier in range(max(1, round_ - _ROUNDS), round_):
            answer, shown = self._store.answer(earlier), self._learner.shown_latents(earlier)
            if answer is None or shown is None:
                continue
            for k, reward in enumerate(self._rewards(*shown).tolist()):
                verdict = answer.verdicts.get(image_id(earlier, k))
                if verdict is not None and not math.isnan(reward):
                    rewards.append(reward)
                    good.append(verdict is Verdict.GOOD)
        return calibrate(rewards, good)

    def _rewards(self, final_latents: torch.Tensor, prompt_index: torch.Tensor) -> torch.Tensor:
        """(N,): similarity to the best image so far of its prompt; NaN where there is none."""
        best: Mapping[int, torch.Tensor] = self._learner.memory.best
        rewards = torch.full((len(final_latents),), float("nan"))
        for prompt in sorted(set(prompt_index.tolist()) & best.keys()):
            rows = prompt_index == prompt
            embed = self._learner.representation.embed
            rewards[rows] = similarity(embed(final_latents[rows]), embed(best[prompt][None]))
        return rewards
