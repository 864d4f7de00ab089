"""One denoising step as a Gaussian, π_θ(z_{t-1} | z_t, c) = N(mean, std²·I). Always in fp32."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["Transition"]


@dataclass(frozen=True)
class Transition:
    """N Gaussian denoising steps.

    Attributes:
        mean: (N, C, h, w) fp32.
        std: (N, 1, 1, 1) fp32, ≥ 0; where it is 0 the step is deterministic and has no density.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def sample(self, noise: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) fp32: mean + std·noise for standard normal `noise`."""
        return self.mean + self.std * noise

    def log_prob(self, latents: torch.Tensor) -> torch.Tensor:
        """(N,) fp32: log-density of `latents` (N, C, h, w), the MEAN over latent dimensions, not the sum.

        The mean keeps ratios near 1 at any resolution, which is why PPO's clip range is as small as 1e-4.
        Where std is 0 the result is not finite.
        """
        z = (latents.float() - self.mean) / self.std
        density = -0.5 * z.square() - self.std.log() - 0.5 * math.log(2 * math.pi)
        return density.flatten(1).mean(1)
