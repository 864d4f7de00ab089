"""What the current reward thinks of images that nobody has judged yet: the probability that a person calls them good.

The reward is the similarity to the best image so far. How well it tells good from bad is fitted to the labels of the
round before, under the embedding as it was when those images were shown: the one that has learnt from them would be too
sure. All of it is read from checkpoints, so that a resumed run suggests the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from hero.feedback.store import LabelStore
from hero.memory import Memory
from hero.reward.advantages import similarity
from hero.reward.representation import Representation
from hero.run.state import Learner
from hero.types import ImageId, Verdict, image_id

__all__ = ["Calibration", "Suggester", "calibrate"]

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
        rewards = _rewards(learner.representation, learner.memory.best, final_latents, index)
        for i, reward in zip(ids, rewards.tolist(), strict=True):
            if not math.isnan(reward):
                score = self._calibration(reward)
                said[i] = {"verdict": str(Verdict.GOOD if score >= 0.5 else Verdict.BAD), "score": score}
        return said

    def _fit(self, round_: int) -> Calibration | None:
        labelled, learner = round_ - 1, self._learner
        answer, shown = self._store.answer(labelled), learner.shown_latents(labelled)
        if answer is None or shown is None:
            return None
        now = _rewards(learner.representation, learner.memory.best, *shown)
        then = self._rewards_when_shown(labelled, *shown)
        judged = [
            (reward, answer.verdicts[i] is Verdict.GOOD)
            for i, reward in ((image_id(labelled, k), reward) for k, reward in enumerate(then.tolist()))
            if i in answer.verdicts and not math.isnan(reward)
        ]
        fitted = calibrate([reward for reward, _ in judged], [good for _, good in judged])
        known = now[~now.isnan()]
        if fitted is None or not len(known):
            return None
        # Rewards are on another scale under the embedding as it is now; where they lie in their round is comparable.
        return replace(fitted, centre=float(known.mean()), scale=float(known.std(correction=0)) or 1.0)

    def _rewards_when_shown(self, round_: int, final_latents: torch.Tensor, prompt_index: torch.Tensor) -> torch.Tensor:
        """Rewards of a round by what was learnt before it; by what is learnt now, where that was nothing."""
        learner = self._learner
        told = learner.directory.load_checkpoint("told", round_ - 1)
        shape = (int(final_latents.shape[1]), int(final_latents.shape[2]), int(final_latents.shape[3]))
        before = Representation(shape, learner.config.representation, seed=0, device=learner.policy.device)
        if told is not None:
            before.load_state_dict(told.tensors["representation"])
        if told is None or not before.fitted:
            return _rewards(learner.representation, learner.memory.best, final_latents, prompt_index)
        best_id = {int(k): v for k, v in told.state["best_id"].items()}
        best = Memory.from_tensors(told.tensors["memory"], best_id).best
        return _rewards(before, best, final_latents, prompt_index)


def _rewards(
    representation: Representation,
    best: Mapping[int, torch.Tensor],
    final_latents: torch.Tensor,
    prompt_index: torch.Tensor,
) -> torch.Tensor:
    """(N,): similarity to the best image of its prompt; NaN where there is none."""
    rewards = torch.full((len(final_latents),), float("nan"))
    for prompt in sorted(set(prompt_index.tolist()) & best.keys()):
        rows = prompt_index == prompt
        embedded = representation.embed(final_latents[rows])
        rewards[rows] = similarity(embedded, representation.embed(best[prompt][None]))
    return rewards
