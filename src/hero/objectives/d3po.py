"""Direct preference optimisation of denoising steps. Source: D3PO (Yang et al. 2024, arXiv:2311.13231), its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

__all__ = ["D3POStats", "d3po_loss"]


@dataclass(frozen=True)
class D3POStats:
    """Per pair, detached.

    Attributes:
        margin: (R,), log-ratio of the winner − log-ratio of the loser, before any clamping; 0 before the first step.
        clamped: (R, 2) bool, of winner and loser: whether the ratio has left its range, so that it has no gradient.
    """

    margin: torch.Tensor
    clamped: torch.Tensor


def d3po_loss(
    log_probs: torch.Tensor, reference: torch.Tensor, beta: float, ratio_range: float
) -> tuple[torch.Tensor, D3POStats]:
    """−log σ(β·[log r_w − log r_l]), r = clamp(π_θ/π_ref, 1 − ε, 1 + ε), for the same step of winner and loser.

    A ratio outside its range has no gradient, whichever way it went. The clamp is applied to the logarithm, which is
    the same in exact numbers: a ratio near 1 has too few digits in fp32 to take its logarithm again.

    Args:
        log_probs: (R, 2) fp32, log π_θ of winner and loser; means over latent dimensions.
        reference: (R, 2), log π_ref.
        beta: β, how strongly a preference pulls against the reference.
        ratio_range: ε.

    Returns:
        The loss of each pair (R,), not yet averaged, and its statistics.
    """
    log_ratio = log_probs - reference
    kept = log_ratio.clamp(math.log(1 - ratio_range), math.log(1 + ratio_range))
    loss = functional.softplus(-beta * (kept[:, 0] - kept[:, 1]))
    detached = log_ratio.detach()
    return loss, D3POStats(detached[:, 0] - detached[:, 1], (detached.exp() - 1).abs() > ratio_range)
