"""The current reward's estimate for images that nobody has judged yet: the probability that a person calls them good.

How well the reward tells good from bad is calibrated on the labels of the previous round, with the reward as it was
when those images were shown: one that has learnt from them would be overconfident. All of it is read from checkpoints,
so that a resumed run suggests the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from hero.feedback.store import LabelStore
from hero.run.state import Learner
from hero.types import ImageId, Verdict

__all__ = ["Calibration", "Suggester", "calibrate"]

_RIDGE = 1.0
"""Keeps the slope finite where the reward separates good from bad perfectly; it weighs as much as a few labels."""


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
    """A logistic fit of labels to rewards (Platt 1999, with his smoothed targets); None unless both labels occur."""
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
    """Suggestions for the images of a run as they are drawn, from what it has learnt so far."""

    def __init__(self, learner: Learner, store: LabelStore) -> None:
        self._learner = learner
        self._store = store
        self._fitted_for = 0
        self._calibration: Calibration | None = None

    def __call__(
        self, round_: int, ids: Sequence[ImageId], final_latents: torch.Tensor, prompts: Sequence[str]
    ) -> dict[ImageId, dict[str, str | float]]:
        """Image → {"verdict": "good" or "bad", "score": probability of good}; empty where there is nothing to go by.

        That is the case in the first round, for rewards that are the labels themselves, and before anything was
        fitted. Images for which the reward has no estimate (such as those of a prompt without a best image) are left
        out.

        Args:
            round_: the round of these images; the run has learnt from those before it.
            final_latents: (N, C, h, w).
        """
        reward, known = self._learner.reward, self._learner.config.task.prompts
        if not reward.ready:
            return {}
        if self._fitted_for != round_:
            self._calibration, self._fitted_for = self._fit(round_), round_
        if self._calibration is None:
            return {}
        index = torch.tensor([known.index(prompt) for prompt in prompts])
        suggested: dict[ImageId, dict[str, str | float]] = {}
        for i, score in zip(ids, reward.score(final_latents, index).mean.tolist(), strict=True):
            if not math.isnan(score):
                probability = self._calibration(score)
                verdict = Verdict.GOOD if probability >= 0.5 else Verdict.BAD
                suggested[i] = {"verdict": str(verdict), "score": probability}
        return suggested

    def _fit(self, round_: int) -> Calibration | None:
        learner, labelled_before = self._learner, round_ - 1
        answer = self._store.answer(labelled_before)
        labelled = None if answer is None else learner.labelled(labelled_before, answer)
        if labelled is None:
            return None
        # With the reward as it was before that round or, if it had learnt nothing then, as it is now.
        before = learner.reward_before(labelled_before)
        judge = before if before is not None and before.ready else learner.reward
        then = judge.score(labelled.final_latents, labelled.prompt_index).mean
        verdicts = labelled.feedback.verdicts
        judged = [
            (score, verdicts[i] is Verdict.GOOD)
            for i, score in zip(labelled.ids, then.tolist(), strict=True)
            if i in verdicts and not math.isnan(score)
        ]
        fitted = calibrate([score for score, _ in judged], [good for _, good in judged])
        now = learner.reward.score(labelled.final_latents, labelled.prompt_index).mean
        known = now[~now.isnan()]
        if fitted is None or not len(known):
            return None
        # A fit changes the scale of rewards; their position within a round stays comparable.
        return replace(fitted, centre=float(known.mean()), scale=float(known.std(correction=0)) or 1.0)
