"""Transitions: worked numbers, round trips, torch's own Normal, and the library's DDIM step."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.transitions import Transition, flow
from hero.transitions.ddim import (
    Prediction,
    ddim_std,
    ddim_transition,
    epsilon_to_sample,
    sample_to_epsilon,
    to_sample_and_epsilon,
    velocity_to_sample,
)

alpha_bars = st.floats(0.01, 0.99)


def tensors(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(alpha_bar=alpha_bars, seed=st.integers(0, 2**31))
def test_epsilon_and_sample_are_inverse(alpha_bar: float, seed: int) -> None:
    z, epsilon = tensors(seed, 2, 4, 3, 3), tensors(seed + 1, 2, 4, 3, 3)
    a = torch.tensor(alpha_bar, dtype=torch.float64)
    sample = epsilon_to_sample(epsilon, z, a)
    torch.testing.assert_close(sample_to_epsilon(sample, z, a), epsilon)
    torch.testing.assert_close(a.sqrt() * sample + (1 - a).sqrt() * epsilon, z)


@settings(max_examples=50, deadline=None)
@given(alpha_bar=alpha_bars, seed=st.integers(0, 2**31))
def test_all_predictions_of_one_image_agree(alpha_bar: float, seed: int) -> None:
    sample, epsilon = tensors(seed, 2, 4, 3, 3), tensors(seed + 1, 2, 4, 3, 3)
    a = torch.tensor(alpha_bar, dtype=torch.float64)
    z = a.sqrt() * sample + (1 - a).sqrt() * epsilon
    velocity = a.sqrt() * epsilon - (1 - a).sqrt() * sample
    torch.testing.assert_close(velocity_to_sample(velocity, z, a), sample)
    outputs: dict[Prediction, torch.Tensor] = {"epsilon": epsilon, "v_prediction": velocity, "sample": sample}
    for prediction, output in outputs.items():
        found = to_sample_and_epsilon(output, z, a, prediction)
        torch.testing.assert_close(found, (sample, epsilon))


def test_a_step_worked_by_hand() -> None:
    # ᾱ_t = 0.36, ᾱ_s = 0.64, z = 1, ε̂ = 0.5: x̂_0 = (1 − 0.8·0.5)/0.6 = 1.
    # σ² = 0.36/0.64·(1 − 0.36/0.64) = 0.5625·0.4375 = 0.24609375;
    # mean = 0.8·1 + √(0.36 − 0.24609375)·0.5 = 0.8 + 0.3375·0.5.
    one = torch.ones(1, 1, 1, 1)
    step = ddim_transition(0.5 * one, one, torch.tensor([0.36]), torch.tensor([0.64]), 1.0, "epsilon")
    assert step.std.item() == pytest.approx(math.sqrt(0.24609375), rel=1e-6)
    assert step.mean.item() == pytest.approx(0.8 + 0.3375 * 0.5, rel=1e-6)
    assert step.sample(2 * one).item() == pytest.approx(0.96875 + 2 * math.sqrt(0.24609375), rel=1e-6)


def test_eta_scales_the_std_and_the_variance_of_a_step_adds_up() -> None:
    a, a_next = torch.tensor([0.2, 0.5]), torch.tensor([0.4, 0.9])
    torch.testing.assert_close(ddim_std(a, a_next, 0.3), 0.3 * ddim_std(a, a_next, 1.0))
    assert not ddim_std(a, a_next, 0.0).any()
    # With x̂_0 = 0 and ε̂ ~ N(0, I), z_s has variance 1 − ᾱ_s whatever η is.
    step = ddim_transition(torch.ones(2, 1, 1, 1), (1 - a).sqrt().view(-1, 1, 1, 1), a, a_next, 0.7, "epsilon")
    torch.testing.assert_close(step.mean.square().flatten() + step.std.square().flatten(), 1 - a_next)


def test_a_step_to_the_clean_image_has_no_density_and_one_to_the_same_noise_level_none_either() -> None:
    assert ddim_std(torch.tensor([0.5]), torch.tensor([1.0]), 1.0).item() == 0
    assert ddim_std(torch.tensor([0.9983]), torch.tensor([0.9983]), 1.0).item() == 0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_step_is_the_library_s(prediction: Prediction, eta: float) -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type=prediction, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    z, output, noise = (tensors(k, 3, 4, 2, 2).float() for k in range(3))
    for t in scheduler.timesteps.tolist():
        a = scheduler.alphas_cumprod[t]
        a_next = scheduler.alphas_cumprod[t - 100] if t >= 100 else scheduler.final_alpha_cumprod
        step = ddim_transition(output, z, a.expand(3), a_next.expand(3), eta, prediction)
        theirs = scheduler.step(output, t, z, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(step.sample(noise), theirs, atol=1e-5, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), std=st.floats(0.01, 3.0))
def test_log_prob_is_the_mean_of_torch_s_normal(seed: int, std: float) -> None:
    mean, latents = tensors(seed, 3, 4, 2, 2).float(), tensors(seed + 1, 3, 4, 2, 2).float()
    stds = std * torch.tensor([1.0, 0.5, 2.0]).view(3, 1, 1, 1)
    expected = torch.distributions.Normal(mean, stds).log_prob(latents).mean(dim=(1, 2, 3))
    torch.testing.assert_close(Transition(mean, stds).log_prob(latents), expected)


def test_half_precision_inputs_are_computed_in_fp32() -> None:
    z, output = tensors(0, 2, 4, 2, 2).bfloat16(), tensors(1, 2, 4, 2, 2).bfloat16()
    half, full = (
        ddim_transition(o, x, torch.tensor([0.3, 0.5]), torch.tensor([0.6, 0.8]), 1.0, "epsilon")
        for o, x in ((output, z), (output.float(), z.float()))
    )
    assert half.mean.dtype == half.std.dtype == torch.float32
    assert torch.equal(half.mean, full.mean)
    assert half.log_prob(z).dtype == torch.float32


# ---------------------------------------------------------------------------------------------- flow matching


@settings(max_examples=50, deadline=None)
@given(t=st.floats(0.01, 0.99), seed=st.integers(0, 2**31))
def test_velocity_gives_the_sample_and_the_noise(t: float, seed: int) -> None:
    sample, noise = tensors(seed, 2, 4, 3, 3), tensors(seed + 1, 2, 4, 3, 3)
    time = torch.tensor(t, dtype=torch.float64)
    latents = (1 - time) * sample + time * noise
    torch.testing.assert_close(flow.flow_velocity_to_sample(noise - sample, latents, time), sample)
    torch.testing.assert_close(flow.velocity_to_noise(noise - sample, latents, time), noise)


def test_a_flow_step_worked_by_hand() -> None:
    # t = 0.5, t_next = 0.2: ρ = 1, ρ_next = 0.25, so σ = 0.7·0.2·√((1 − 0.0625)/2) = 0.0958514.
    # With x = 1, v = 2: x̂_0 = 1 − 0.5·2 = 0, x̂_1 = 1 + 0.5·2 = 2; mean = 0.8·0 + √(0.04 − σ²)·2.
    one, t, t_next = torch.ones(1, 1, 1, 1), torch.tensor([0.5]), torch.tensor([0.2])
    std = flow.flow_std(t, t_next, 0.7)
    assert std.item() == pytest.approx(0.0958514, rel=1e-5)
    step = flow.flow_transition(2 * one, one, t, t_next, std)
    assert step.std.item() == std.item()
    assert step.mean.item() == pytest.approx(2 * math.sqrt(0.04 - 0.0958514**2), rel=1e-5)


def test_the_first_flow_step_is_finite_and_the_last_is_deterministic() -> None:
    std = flow.flow_std(torch.tensor([1.0, 0.6, 0.3]), torch.tensor([0.6, 0.3, 0.0]), 0.7)
    assert std[0].item() == pytest.approx(0.7 * 0.6 / math.sqrt(2))
    assert std[2].item() == 0
    x, v, zero = tensors(0, 1, 4, 2, 2).float(), tensors(1, 1, 4, 2, 2).float(), torch.zeros(1)
    last = flow.flow_transition(v, x, torch.tensor([0.3]), zero, zero)
    torch.testing.assert_close(last.mean, flow.flow_velocity_to_sample(v, x, torch.tensor(0.3)))


@settings(max_examples=50, deadline=None)
@given(t=st.floats(0.02, 1.0), share=st.floats(0.0, 0.99), a=st.floats(0.0, 1.0))
def test_a_flow_step_of_any_length_keeps_the_noise_that_belongs_to_its_end(t: float, share: float, a: float) -> None:
    """Of a known picture, here 0, x_t is t times noise; after a step it is t_next times noise, drawn or kept."""
    time, after = torch.tensor([t]), torch.tensor([t * share])
    std, x = flow.flow_std(time, after, a), torch.full((1, 1, 1, 1), t)
    step = flow.flow_transition(x / t, x, time, after, std)
    total = step.mean.square() + step.std.square()
    assert total.item() == pytest.approx(t * t * share * share, rel=1e-4, abs=1e-6)


def test_short_flow_steps_are_those_of_flow_grpo() -> None:
    t, dt, a = torch.tensor([0.3, 0.6, 0.9]), 1e-4, 0.7
    std = flow.flow_std(t, t - dt, a)
    torch.testing.assert_close(std, a * (t / (1 - t) * dt).sqrt(), rtol=2e-3, atol=0)
    x, v = tensors(0, 3, 4, 2, 2).float(), tensors(1, 3, 4, 2, 2).float()
    moved = flow.flow_transition(v, x, t, t - dt, std).mean - x
    time = t.view(-1, 1, 1, 1)
    published = -dt * (v + a**2 / (2 * (1 - time)) * (x + (1 - time) * v))  # [v + σ_t²/(2t)·x̂_1]·Δt
    torch.testing.assert_close(moved, published, rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_step_without_noise_is_the_library_s(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(6)
    sigmas, latents = scheduler.sigmas, tensors(0, 3, 4, 2, 2).float()
    for k, time in enumerate(scheduler.timesteps):
        output = tensors(k + 1, 3, 4, 2, 2).float()
        theirs = scheduler.step(output, time, latents).prev_sample
        t, t_next = sigmas[k].expand(3), sigmas[k + 1].expand(3)
        assert torch.equal(flow.flow_transition(output, latents, t, t_next, flow.flow_std(t, t_next, 0.0)).mean, theirs)
        near = flow.flow_transition(output, latents, t, t_next, flow.flow_std(t, t_next, 1e-4))
        torch.testing.assert_close(near.mean, theirs, atol=1e-6, rtol=1e-6)
        assert near.std.max() < 1e-3
        latents = theirs


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), t=st.floats(0.05, 1.0), a=st.floats(0.1, 1.0))
def test_the_log_prob_of_a_flow_step_is_torch_s(seed: int, t: float, a: float) -> None:
    x, v, following = (tensors(seed + k, 2, 4, 2, 2).float() for k in range(3))
    before, after = torch.full((2,), t), torch.full((2,), 0.9 * t)
    step = flow.flow_transition(v, x, before, after, flow.flow_std(before, after, a))
    expected = torch.distributions.Normal(step.mean, step.std).log_prob(following).mean(dim=(1, 2, 3))
    torch.testing.assert_close(step.log_prob(following), expected)


@pytest.mark.parametrize("a", [0.0, 0.7, 1.0])
def test_a_flow_keeps_the_marginals_of_a_gaussian_at_every_time(a: float) -> None:
    # Data N(μ, s²), so x_t ~ N((1−t)μ, (1−t)²s² + t²), and v̂ = E[noise − data | x_t] is linear in x_t.
    mu, s, steps = 1.5, 0.5, 600
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    mean, variance = 0.0, 1.0
    for k in range(steps):
        t, t_next = times[k], times[k + 1]
        spread = (1 - t) ** 2 * s**2 + t**2
        slope = (t - (1 - t) * s**2) / spread

        def velocity(x: torch.Tensor, slope: torch.Tensor = slope, t: torch.Tensor = t) -> torch.Tensor:
            return -mu + slope * (x - (1 - t) * mu)

        x = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
        # The mean of a step is affine in x: two points give it exactly, in double precision.
        std = flow.flow_std(t, t_next, a)
        kept = (t_next**2 - std**2).sqrt()
        moved = (1 - t_next) * flow.flow_velocity_to_sample(velocity(x), x, t)
        moved = moved + kept * flow.velocity_to_noise(velocity(x), x, t)
        offset, gain = float(moved[0]), float(moved[1] - moved[0])
        mean, variance = offset + gain * mean, gain**2 * variance + float(std) ** 2
        if k % 100 == 0 and k:
            step = flow.flow_transition(velocity(x), x, t.expand(2), t_next.expand(2), std.expand(2))
            torch.testing.assert_close(step.mean.double(), moved, atol=1e-5, rtol=1e-5)
            expected = float((1 - t_next) ** 2 * s**2 + t_next**2)
            assert mean == pytest.approx(float(1 - t_next) * mu, abs=0.02)
            assert variance == pytest.approx(expected, rel=0.03)
    assert mean == pytest.approx(mu, abs=0.02)
    assert variance == pytest.approx(s**2, rel=0.03)
