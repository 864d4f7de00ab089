"""Feedback → a reward per image → advantages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from hero.config import RewardConfig
from hero.memory import Memory
from hero.reward.representation import Representation
from hero.types import Feedback, ImageId, Rewards, Verdict

__all__ = ["advantages", "compute_rewards", "label_reward", "score_reward", "similarity"]

_EPSILON = 1e-8
_NO_VARIANCE = 1e-7


def similarity(embeddings: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """R = mean over references of (1 + cos(E(z), E(reference)))/2: (N, D), (M, D) → (N,) in [0, 1].

    With the best image as the one reference this is HERO's reward (eq. 3).
    """
    cosine = functional.cosine_similarity(embeddings[:, None], reference[None], dim=-1)
    return ((1 + cosine) / 2).mean(dim=1)


def label_reward(ids: Sequence[ImageId], feedback: Feedback) -> torch.Tensor:
    """(N,): 1 for good, 0 for bad, NaN for unlabelled."""
    value = {Verdict.GOOD: 1.0, Verdict.BAD: 0.0}
    verdicts = feedback.verdicts
    return torch.tensor([value[verdicts[i]] if i in verdicts else float("nan") for i in ids])


def score_reward(ids: Sequence[ImageId], feedback: Feedback) -> torch.Tensor:
    """(N,): the evaluator's own score, NaN where there is none."""
    return torch.tensor([feedback.scores.get(i, float("nan")) for i in ids])


def advantages(rewards: torch.Tensor, prompt_index: torch.Tensor, *, clip: float, min_group: int) -> torch.Tensor:
    """(R − mean R)/(std R + 1e-8), clipped to ± `clip`; (N,) → (N,).

    Normalised per prompt where a prompt has at least `min_group` rewarded images, the others over the round.
    NaN rewards, and groups without variance, get 0.
    """
    result = torch.zeros_like(rewards)
    rewards = rewards.double()  # the fp32 mean of equal rewards can differ from them: variance out of nothing
    rewarded = ~rewards.isnan()
    everything = rewards[rewarded]
    for prompt in sorted(set(prompt_index.tolist())):
        rows = rewarded & (prompt_index == prompt)
        group = rewards[rows] if int(rows.sum()) >= min_group else everything
        if len(group) == 0:
            continue
        std = group.std(correction=0)
        if std > _NO_VARIANCE:
            result[rows] = ((rewards[rows] - group.mean()) / (std + _EPSILON)).clamp(-clip, clip).to(result.dtype)
    return result


def compute_rewards(
    config: RewardConfig,
    representation: Representation,
    final_latents: torch.Tensor,
    ids: Sequence[ImageId],
    prompt_index: torch.Tensor,
    feedback: Feedback,
    memory: Memory,
) -> Rewards:
    """The rewards and advantages of one round.

    An image whose prompt has no best yet (or, for `similarity-to-good`, no good one) has no reward.
    """
    if config.kind == "label":
        rewards = label_reward(ids, feedback)
    elif config.kind == "score":
        rewards = score_reward(ids, feedback)
    else:
        rewards = torch.full((len(ids),), float("nan"))
        for prompt in sorted(set(prompt_index.tolist())):
            reference = memory.best.get(prompt)
            if reference is None:
                continue
            references = reference[None]
            if config.kind == "similarity-to-good":
                others = set(feedback.good) - {memory.best_id[prompt]}
                rows = [k for k, i in enumerate(ids) if i in others and int(prompt_index[k]) == prompt]
                references = torch.cat([references, final_latents[rows].float()])
            chosen = prompt_index == prompt
            rewards[chosen] = similarity(representation.embed(final_latents[chosen]), representation.embed(references))
    return Rewards(rewards, advantages(rewards, prompt_index, clip=config.advantage_clip, min_group=config.min_group))
