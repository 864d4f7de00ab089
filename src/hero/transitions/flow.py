"""Stochastic steps for rectified-flow models, which predict the velocity v = noise − data.

x_t = (1 − t)·x_0 + t·x_1 with data x_0 and noise x_1 ~ N(0, I); t runs from 1 (noise) to 0 (data). Source: Liu et al.,
"Flow-GRPO", arXiv 2505.05470, eq. 9 to 11: a stochastic process with the marginals of the deterministic one.
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


def flow_std(t: torch.Tensor, t_next: torch.Tensor, t_first: float, a: float) -> torch.Tensor:
    """σ_t·√(t − t_next) with σ_t = a·√(t/(1 − t)); same shape as `t`.

    1 − t is taken as at least 1 − `t_first`, where `t_first` is the time after the first step of the schedule: at t = 1
    the denominator would be 0. At every later step this changes nothing.
    """
    remaining = (1 - t).clamp(min=1 - t_first)
    return a * (t / remaining * (t - t_next).clamp(min=0)).sqrt()


def flow_transition(
    output: torch.Tensor,
    latents: torch.Tensor,
    t: torch.Tensor,
    t_next: torch.Tensor,
    t_first: float,
    a: float,
) -> Transition:
    """The Gaussian of one step from t to t_next < t.

    With Δt = t_next − t: mean = x_t + v̂·Δt + σ_t²/(2t)·x̂_1·Δt, std = σ_t·√(−Δt) (`flow_std`). As a → 0 this is the
    Euler step x_t + v̂·Δt.

    Args:
        output: (N, C, h, w) predicted velocity, any float dtype; computed in fp32.
        latents: (N, C, h, w), x_t.
        t, t_next: (N,) fp32 in [0, 1].
        t_first: see `flow_std`.
        a: how stochastic, ≥ 0; 0.7 as published.
    """
    t, t_next = (x.float().view(-1, 1, 1, 1) for x in (t, t_next))
    velocity, latents = output.float(), latents.float()
    std = flow_std(t, t_next, t_first, a)
    # σ_t²·Δt = −std², which is exact at every step, the first one included.
    drift = std.square() / (2 * t) * velocity_to_noise(velocity, latents, t)
    return Transition(latents + (t_next - t) * velocity - drift, std)
