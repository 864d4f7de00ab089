"""Stochastic steps for rectified-flow models, which predict the velocity v = noise − data.

x_t = (1 − t)·x_0 + t·x_1 with data x_0 and noise x_1 ~ N(0, I); t runs from 1 (noise) to 0 (data). Sources: Liu et al.,
"Flow-GRPO", arXiv 2505.05470, whose process this is where steps are small; Song et al., "Denoising Diffusion Implicit
Models", eq. 12 and 16, for its steps, which are exact for one known picture at any length; Wang & Yu,
"Coefficients-Preserving Sampling", arXiv 2509.05952, on why Flow-GRPO's leave noise.
"""

from __future__ import annotations

import torch

from hero.transitions import Transition

__all__ = ["flow_noised", "flow_std", "flow_target", "flow_transition", "flow_velocity_to_sample", "velocity_to_noise"]


def flow_velocity_to_sample(velocity: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x̂_0 = x_t − t·v̂. Tensors (N, C, h, w); `t` broadcasts, e.g. (N, 1, 1, 1)."""
    return latents - t * velocity


def velocity_to_noise(velocity: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x̂_1 = x_t + (1 − t)·v̂; shapes as for `flow_velocity_to_sample`."""
    return latents + (1 - t) * velocity


def flow_noised(sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = (1 − t)·x_0 + t·x_1. Tensors (N, C, h, w); `t` broadcasts, e.g. (N, 1, 1, 1)."""
    return (1 - t) * sample + t * noise


def flow_target(sample: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """v = x_1 − x_0, which the model should say of `flow_noised` at every t."""
    return noise - sample


def flow_std(t: torch.Tensor, t_next: torch.Tensor, a: float) -> torch.Tensor:
    """σ = a·t_next·√((1 − (ρ_next/ρ)²)/2) with ρ = t/(1 − t), for a step from t to t_next < t; same shape as `t`.

    Never more than a/√2 of the noise that belongs to t_next, so that it is 0 at the last step, to t_next = 0; ρ_next/ρ
    is 0 at the first, from t = 1. For small steps σ² is a²·t/(1 − t)·(t − t_next), Flow-GRPO's.
    """
    # Rounding may take t_next to 1 where a schedule begins with tiny steps.
    ratio = t_next * (1 - t) / (t * (1 - t_next).clamp(min=torch.finfo(t.dtype).eps))
    return a * t_next * ((1 - ratio.square()).clamp(min=0) / 2).sqrt()


def flow_transition(
    output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor, t_next: torch.Tensor, std: torch.Tensor
) -> Transition:
    """The Gaussian of one step from t to t_next < t, DDIM's for a flow: mean = (1 − t_next)·x̂_0 + √(t_next² − σ²)·x̂_1.

    Data and noise keep the shares that belong to t_next, however long the step is. At σ = 0 it is the Euler step
    x_t + v̂·(t_next − t).

    Args:
        output: (N, C, h, w) predicted velocity, any float dtype; computed in fp32.
        latents: (N, C, h, w), x_t.
        t, t_next: (N,) fp32 in [0, 1].
        std: (N,) fp32, σ, at most t_next: `flow_std`, or 0.
    """
    t, t_next, std = (x.float().view(-1, 1, 1, 1) for x in (t, t_next, std))
    velocity, latents = output.float(), latents.float()
    kept = (t_next.square() - std.square()).clamp(min=0).sqrt()
    # t_next − kept, without the difference of two nearly equal numbers; exactly 0 at σ = 0.
    replaced = std.square() / (t_next + kept).clamp(min=torch.finfo(torch.float32).tiny)
    drift = replaced * velocity_to_noise(velocity, latents, t)
    return Transition(latents + (t_next - t) * velocity - drift, std)
