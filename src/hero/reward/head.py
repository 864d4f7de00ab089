"""A head on the frozen denoiser's features: p(good), from every label so far and with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from hero.config import RewardConfig
from hero.features import features
from hero.progress import OnStep, ignore
from hero.registry import HeadSettings
from hero.reward.logistic import Logistic, fit_logistic
from hero.reward.protocol import Reward, RewardContext
from hero.types import Labelled, Score, Verdict

__all__ = ["Head", "share_good"]

_LEAST_APART = 0.05
"""Mean p of good and of bad images closer than this say nothing about shares; the standard error is large then."""


class Head(Reward):
    """Rewards lie in [0, 1]: half the label, half the standing of the image's p(good) among those of its prompt."""

    FIGURES: ClassVar[Mapping[str, str]] = {
        "brier": "mean squared difference between p(good), before these labels were learnt, and the labels; ¼ is what "
        "a coin would reach. Missing if there was no estimate yet"
    }

    def __init__(self, context: RewardContext, config: RewardConfig) -> None:
        self.context = context
        self.settings = config.table(HeadSettings)
        self.features = torch.empty(0, 0)
        self.good = torch.empty(0, dtype=torch.bool)
        self.fitted: Logistic | None = None

    @property
    def ready(self) -> bool:
        return self.fitted is not None

    def fit(self, labelled: Labelled, on_step: OnStep = ignore) -> Mapping[str, float]:
        good, bad = (
            [row for prompt in labelled.rows_by_prompt for row in labelled.rows_labelled(prompt, verdict)]
            for verdict in (Verdict.GOOD, Verdict.BAD)
        )
        rows = sorted({*good, *bad})
        if not rows:
            return {}
        found = self._features(labelled.final_latents[rows], labelled.prompt_index[rows])
        verdicts = torch.tensor([row in set(good) for row in rows])
        figures = {}
        if self.fitted is not None:
            p = torch.from_numpy(self.fitted.probability(found.double().numpy())[0])
            figures["brier"] = float((p - verdicts.double()).square().mean())
        self.features = torch.cat([self.features.reshape(-1, found.shape[1]), found])
        self.good = torch.cat([self.good, verdicts])
        self._refit()
        return figures

    def _refit(self) -> None:
        if len(self.good) and not self.good.all() and self.good.any():
            self.fitted = fit_logistic(self.features.double().numpy(), self.good.numpy(), self.settings.prior)

    def _features(self, latents: torch.Tensor, prompt_index: torch.Tensor) -> torch.Tensor:
        context = self.context
        return features(
            context.policy,
            context.conditioning,
            prompt_index,
            latents,
            micro_batch=self.settings.micro_batch,
            workers=context.workers,
        )

    def score(self, final_latents: torch.Tensor, prompt_index: torch.Tensor) -> Score:
        if self.fitted is None:
            return super().score(final_latents, prompt_index)
        found = self._features(final_latents, prompt_index).double().numpy()
        return Score(*(torch.from_numpy(part).float() for part in self.fitted.probability(found)))

    def rewards(self, labelled: Labelled) -> torch.Tensor:
        if self.fitted is None:
            return torch.full((len(labelled.ids),), float("nan"))
        _, standing = self.practice(labelled)
        verdicts, share = labelled.feedback.verdicts, self.settings.label_share
        return torch.stack(
            [
                share * float(verdicts[i] is Verdict.GOOD) + (1 - share) * place if i in verdicts else place
                for i, place in zip(labelled.ids, standing, strict=True)
            ]
        )

    def practice(self, unlabelled: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
        p = self.score(unlabelled.final_latents, unlabelled.prompt_index).mean
        return p, self._standing(p, unlabelled)

    def share_good(self, estimates: torch.Tensor) -> tuple[float, float] | None:
        if self.fitted is None:
            return None
        return share_good(self.fitted, self.good.numpy(), estimates.double().numpy())

    def _standing(self, p: torch.Tensor, labelled: Labelled) -> torch.Tensor:
        """½ + ½·clip((p − mean p)/spread, −1, 1) within each prompt, where the spread is the deviation of p but never
        below a least one: where all images are about as good as each other, they get about the same reward."""
        standing = torch.empty_like(p)
        for rows in labelled.rows_by_prompt.values():
            spread = p[rows].std(correction=0).clamp(min=self.settings.least_spread)
            standing[rows] = ((p[rows] - p[rows].mean()) / spread).clamp(-1, 1) / 2 + 0.5
        return standing

    def note(self, labelled: Labelled) -> str:
        if self.fitted is not None:
            return ""
        return (
            f"no {'bad' if self.good.any() else 'good'} image yet to compare with: no update" if len(self.good) else ""
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"features": self.features, "good": self.good} if len(self.good) else {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        if not state:
            return
        width = self._features(
            torch.zeros(1, *self.context.policy.latent_shape), torch.zeros(1, dtype=torch.int64)
        ).shape[1]
        if state["features"].shape[1] != width:
            raise ValueError(f"the head has learnt from {state['features'].shape[1]} features, the model has {width}")
        self.features, self.good = state["features"].clone(), state["good"].clone()
        self._refit()


def share_good(
    fitted: Logistic, good: npt.NDArray[np.bool_], estimates: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """The share of good images among those with p(good) = `estimates` (M,), and its standard error.

    A probabilistic adjusted count: mean p lies between the means that labelled bad and good images would have. Those
    are taken from the labels `good` (N,) of the fit, each as if it had been left out. It assumes that good and bad
    images look like those that were labelled. Source: Bella et al. 2010, "Quantification via probability estimators".
    """
    p = fitted.left_out
    mean_of = {kind: float(p[good == kind].mean()) for kind in (True, False)}
    error_of = {kind: float(p[good == kind].std() / math.sqrt((good == kind).sum())) for kind in (True, False)}
    apart = max(mean_of[True] - mean_of[False], _LEAST_APART)
    share = (float(estimates.mean()) - mean_of[False]) / apart
    error = math.hypot(
        float(estimates.std()) / math.sqrt(len(estimates)), share * error_of[True], (1 - share) * error_of[False]
    )
    return min(max(share, 0.0), 1.0), error / apart
