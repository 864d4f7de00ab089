"""The negative-aware objective on the forward process. Source: DiffusionNFT (Zheng et al. 2025), eq. 6."""

from __future__ import annotations

import torch

__all__ = ["nft_loss"]

_SMALLEST_SCALE = 1e-5


def nft_loss(
    output: torch.Tensor, old: torch.Tensor, target: torch.Tensor, optimality: torch.Tensor, beta: float
) -> torch.Tensor:
    """(1/β)·[r·‖y⁺ − y‖²/w⁺ + (1 − r)·‖y⁻ − y‖²/w⁻] per example, with y⁺ = (1 − β)·y_old + β·y_θ and
    y⁻ = (1 + β)·y_old − β·y_θ.

    ‖·‖² is a mean over an example's numbers, and w = max(mean |y± − y|, 1e-5), without gradient, weighs examples of
    all noise levels alike. In the model's own output space y is what a perfect model would predict.

    Args:
        output: (M, ...) y_θ, with gradient.
        old: (M, ...) y_old, the prediction of the model that drew the images.
        target: (M, ...) y.
        optimality: (M,) r in [0, 1]: how likely the image is one to draw more of; ½ only holds y_θ near y_old.
        beta: β > 0; larger steps towards good images, and away from bad ones, with a smaller one.

    Returns:
        (M,), not yet averaged.
    """
    r = optimality
    positive = _weighted_square((1 - beta) * old + beta * output - target)
    negative = _weighted_square((1 + beta) * old - beta * output - target)
    return (r * positive + (1 - r) * negative) / beta


def _weighted_square(error: torch.Tensor) -> torch.Tensor:
    flat = error.flatten(1)
    scale = flat.detach().abs().mean(dim=1).clamp(min=_SMALLEST_SCALE)
    return flat.square().mean(dim=1) / scale
