"""The plain denoising loss, with which diffusion models are pretrained. Source: Ho et al. 2020, eq. 14."""

from __future__ import annotations

import torch

__all__ = ["denoising_loss"]


def denoising_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """‖output − target‖² per example, the mean over latent dimensions; (M, C, h, w), (M, C, h, w) → (M,).

    `target` is what the model should have said of the noised latent, in its own kind of prediction: the noise, the
    velocity or the clean sample.
    """
    return (output - target).square().flatten(1).mean(1)
