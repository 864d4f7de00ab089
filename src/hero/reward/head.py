"""A head on the frozen denoiser's features: p(good), from every label so far and with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata

from hero.config import RewardConfig
from hero.features import features
from hero.progress import OnStep, ignore
from hero.registry import HeadSettings
from hero.reward.logistic import Logistic, fit_logistic
from hero.reward.protocol import Reward, RewardContext
from hero.types import Labelled, Score, Verdict

__all__ = ["Head"]

_NEIGHBOURS = 5
_CROWDED = 0.3


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
        return _score(self.fitted, found)

    def rewards(self, labelled: Labelled) -> torch.Tensor:
        if self.fitted is None:
            return torch.full((len(labelled.ids),), float("nan"))
        standing = self._standing(self.score(labelled.final_latents, labelled.prompt_index).mean, labelled)
        verdicts, share = labelled.feedback.verdicts, self.settings.label_share
        return torch.stack(
            [
                share * float(verdicts[i] is Verdict.GOOD) + (1 - share) * place if i in verdicts else place
                for i, place in zip(labelled.ids, standing, strict=True)
            ]
        )

    def practice(self, unlabelled: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.fitted is not None
        found = self._features(unlabelled.final_latents, unlabelled.prompt_index).double().numpy()
        p = _score(self.fitted, found).mean
        rewards = self._standing(p, unlabelled)
        if self.settings.variety > 0:
            scaled = (found - self.fitted.centre) / self.fitted.scale
            for rows in unlabelled.rows_by_prompt.values():
                likely = _likely(rows, p)
                if len(likely) > _NEIGHBOURS:
                    rewards[likely] += self.settings.variety * (_apart(scaled[likely]) - rewards[likely])
        return p, rewards

    def share_good(self, estimates: torch.Tensor) -> tuple[float, float] | None:
        if self.fitted is None:
            return None
        return self.fitted.share_good(self.good.numpy(), estimates.double().numpy())

    def _standing(self, p: torch.Tensor, labelled: Labelled) -> torch.Tensor:
        """½ + ½·clip((p − mean p)/spread, −1, 1) within each prompt, where the spread is the deviation of p but never
        below a least one: where p says little, or of all images about the same, so does the reward."""
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


def _score(fitted: Logistic, found: npt.NDArray[np.float64]) -> Score:
    return Score(*(torch.from_numpy(part).float() for part in fitted.probability(found)))


def _likely(rows: Sequence[int], p: torch.Tensor) -> list[int]:
    """As many of `rows` as are good by expectation: those with the highest p."""
    return sorted(rows, key=lambda row: -float(p[row]))[: round(float(p[list(rows)].sum()))]


def _apart(found: npt.NDArray[np.float64]) -> torch.Tensor:
    """How far each image lies from its nearest neighbours among these, as a rank from the most crowded (0.3) to 1.

    The rank, and not the distance, so that no outlier gets all. From 0.3, since crowded ones are good, too. The idea of
    scaling what good images teach by their distance to others is GARDO's (He et al. 2025).
    """
    distances = np.sort(squareform(pdist(found)), axis=1)[:, 1 : _NEIGHBOURS + 1].mean(1)
    rank = rankdata(distances) - 1
    return torch.from_numpy(_CROWDED + (1 - _CROWDED) * rank / (len(rank) - 1)).float()
