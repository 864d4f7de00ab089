"""The clipped policy-gradient objective. Source: Schulman et al. 2017, eq. 7; for denoising steps DDPO, eq. 5."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["PPOStats", "ppo_loss"]


@dataclass(frozen=True)
class PPOStats:
    """Per transition, detached: ratio (N,), kl = ½(log ratio)² (N,), clipped (N,) bool."""

    ratio: torch.Tensor
    kl: torch.Tensor
    clipped: torch.Tensor


def ppo_loss(
    log_probs: torch.Tensor, old_log_probs: torch.Tensor, advantages: torch.Tensor, clip_range: float
) -> tuple[torch.Tensor, PPOStats]:
    """max(−A·ratio, −A·clip(ratio, 1 − ε, 1 + ε)) per transition, ratio = exp(log π − log π_old).

    Args:
        log_probs, old_log_probs: (N,) fp32, means over latent dimensions (hence the small ε).
        advantages: (N,).
        clip_range: ε.

    Returns:
        The loss of each transition (N,), not yet averaged, and its statistics.
    """
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    detached = ratio.detach()
    return loss, PPOStats(detached, 0.5 * log_ratio.detach().square(), (detached - 1).abs() > clip_range)
