"""Rewards → advantages, pairs, and how well a reward predicted the labels: the same for every kind of reward."""

from __future__ import annotations

import torch
from scipy.stats import mannwhitneyu

from hero.config import RewardConfig
from hero.reward.protocol import Reward
from hero.types import Judged, Labelled, Trajectory, Verdict

__all__ = ["FIGURES", "advantages", "auc", "foresight", "judge_round", "preference_pairs"]

_EPSILON = 1e-8
_NO_VARIANCE = 1e-7


def advantages(
    rewards: torch.Tensor, prompt_index: torch.Tensor, *, clip: float, min_group: int, recentre: bool = False
) -> torch.Tensor:
    """(R − mean R)/(std R + 1e-8), clipped to ± `clip`; (N,) → (N,).

    Normalised per prompt if the prompt has at least `min_group` rewarded images, else over the round.
    NaN rewards, and groups without variance, get 0. With `recentre`, what clipping leaves as the group's mean is taken
    off: of one good image in ten, clipped at ½, the good one then counts as much as all the others together.
    """
    result = torch.zeros_like(rewards)
    rewards = rewards.double()  # in fp32 the mean of equal rewards can differ from them: spurious variance
    rewarded = ~rewards.isnan()
    for prompt in sorted(set(prompt_index.tolist())):
        rows = rewarded & (prompt_index == prompt)
        compared = rows if int(rows.sum()) >= min_group else rewarded
        group = rewards[compared]
        if len(group) == 0:
            continue
        std = group.std(correction=0)
        if std > _NO_VARIANCE:
            clipped = ((rewards - group.mean()) / (std + _EPSILON)).clamp(-clip, clip)
            if recentre:
                clipped -= clipped[compared].mean()
            result[rows] = clipped[rows].to(result.dtype)
    return result


def preference_pairs(labelled: Labelled) -> tuple[tuple[int, int], ...]:
    """(winner, loser) rows: the comparisons that were given, or else each good image of a prompt with each bad one."""
    row_of = labelled.row_of
    if labelled.feedback.pairs:
        return tuple((row_of[w], row_of[x]) for w, x in labelled.feedback.pairs if w in row_of and x in row_of)
    return tuple(
        (good, bad)
        for prompt in labelled.rows_by_prompt
        for good in labelled.rows_labelled(prompt, Verdict.GOOD)
        for bad in labelled.rows_labelled(prompt, Verdict.BAD)
    )


def judge_round(labelled: Labelled, trajectory: Trajectory, rewards: torch.Tensor, config: RewardConfig) -> Judged:
    """What an update learns from."""
    normalised = advantages(
        rewards,
        labelled.prompt_index,
        clip=config.advantage_clip,
        min_group=config.min_group,
        recentre=config.recentre,
    )
    return Judged(trajectory, rewards, normalised, preference_pairs(labelled))


FIGURES: dict[str, str] = {
    "auc": "how well the reward, as it was when these images were drawn, predicted their labels: the probability that "
    "a good image had a higher score than a bad one of its prompt; ½ is chance. Missing if it had no scores"
}
"""Figures that every reward has."""


def foresight(reward: Reward, labelled: Labelled) -> dict[str, float]:
    """The figures in `FIGURES`, for a round that `reward` has not learnt from yet; empty if it cannot score images."""
    if not reward.ready:
        return {}
    found = auc(reward.score(labelled.final_latents, labelled.prompt_index).mean, labelled)
    return {} if found is None else {"auc": found}


def auc(scores: torch.Tensor, labelled: Labelled) -> float | None:
    """The area under the ROC curve of `scores` (N,) as a forecast of the labels, within prompts.

    In [0, 1]; NaN scores are ignored. None if no prompt has scored images of both kinds.
    """
    wins = pairs = 0.0
    for prompt in labelled.rows_by_prompt:
        good, bad = (
            scores[labelled.rows_labelled(prompt, verdict)].double().numpy() for verdict in (Verdict.GOOD, Verdict.BAD)
        )
        good, bad = good[good == good], bad[bad == bad]
        if len(good) and len(bad):
            wins += float(mannwhitneyu(good, bad).statistic)
            pairs += len(good) * len(bad)
    return wins / pairs if pairs else None
