"""Stochastic DDIM steps for models that predict the noise, the velocity or the clean sample.

ᾱ are cumulative products of the noise schedule. Source: Song et al., "Denoising Diffusion Implicit Models",
eq. 12 and 16; v-prediction: Salimans & Ho, "Progressive Distillation", appendix D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from hero.transitions import Transition

__all__ = [
    "Prediction",
    "ddim_noised",
    "ddim_std",
    "ddim_target",
    "ddim_transition",
    "epsilon_to_sample",
    "sample_to_epsilon",
    "to_sample_and_epsilon",
    "velocity_to_sample",
]

Prediction = Literal["epsilon", "v_prediction", "sample"]


def epsilon_to_sample(epsilon: torch.Tensor, latents: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x̂_0 = (z_t − √(1−ᾱ_t)·ε̂) / √ᾱ_t. Tensors (N, C, h, w); `alpha_bar` broadcasts, e.g. (N, 1, 1, 1)."""
    return (latents - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()


def sample_to_epsilon(sample: torch.Tensor, latents: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """ε̂ = (z_t − √ᾱ_t·x̂_0) / √(1−ᾱ_t), the inverse of `epsilon_to_sample`."""
    return (latents - alpha_bar.sqrt() * sample) / (1 - alpha_bar).sqrt()


def velocity_to_sample(velocity: torch.Tensor, latents: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """x̂_0 = √ᾱ_t·z_t − √(1−ᾱ_t)·v̂, for v = √ᾱ_t·ε − √(1−ᾱ_t)·x_0."""
    return alpha_bar.sqrt() * latents - (1 - alpha_bar).sqrt() * velocity


def to_sample_and_epsilon(
    output: torch.Tensor, latents: torch.Tensor, alpha_bar: torch.Tensor, prediction: Prediction
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x̂_0, ε̂) from whatever the model predicts; each (N, C, h, w)."""
    if prediction == "epsilon":
        return epsilon_to_sample(output, latents, alpha_bar), output
    to_sample: Callable[..., torch.Tensor] = {
        "v_prediction": velocity_to_sample,
        "sample": lambda sample, *_: sample,
    }[prediction]
    sample = to_sample(output, latents, alpha_bar)
    return sample, sample_to_epsilon(sample, latents, alpha_bar)


def ddim_noised(sample: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    """z_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε. Tensors (N, C, h, w); `alpha_bar` broadcasts, e.g. (N, 1, 1, 1)."""
    return alpha_bar.sqrt() * sample + (1 - alpha_bar).sqrt() * noise


def ddim_target(
    sample: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, prediction: Prediction
) -> torch.Tensor:
    """What a model that predicts `prediction` should say of `ddim_noised`: ε, √ᾱ_t·ε − √(1−ᾱ_t)·x_0, or x_0."""
    if prediction == "v_prediction":
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * sample
    return {"epsilon": noise, "sample": sample}[prediction]


def ddim_std(alpha_bar: torch.Tensor, alpha_bar_next: torch.Tensor, eta: float) -> torch.Tensor:
    """σ = η·√((1−ᾱ_s)/(1−ᾱ_t)·(1 − ᾱ_t/ᾱ_s)) for a step from t to s < t; same shape as `alpha_bar`."""
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    return eta * variance.clamp(min=0).sqrt()


def ddim_transition(
    output: torch.Tensor,
    latents: torch.Tensor,
    alpha_bar: torch.Tensor,
    alpha_bar_next: torch.Tensor,
    eta: float,
    prediction: Prediction,
) -> Transition:
    """The Gaussian of one DDIM step from t to s < t.

    mean = √ᾱ_s·x̂_0 + √(1−ᾱ_s−σ²)·ε̂, std = σ (`ddim_std`).

    Args:
        output: (N, C, h, w) model output, any float dtype; computed in fp32.
        latents: (N, C, h, w), z_t.
        alpha_bar, alpha_bar_next: (N,) fp32, ᾱ_t and ᾱ_s.
        eta: in [0, 1].
        prediction: what `output` is.
    """
    at, a_next = (a.float().view(-1, 1, 1, 1) for a in (alpha_bar, alpha_bar_next))
    sample, epsilon = to_sample_and_epsilon(output.float(), latents.float(), at, prediction)
    std = ddim_std(at, a_next, eta)
    direction = (1 - a_next - std.square()).clamp(min=0).sqrt()
    return Transition(a_next.sqrt() * sample + direction * epsilon, std)
