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
    # t = 0.5, t_next = 0.25, a = 0.7: σ² = 0.49·0.5/0.5 = 0.49, std = 0.7·√0.25 = 0.35. With x = 1, v = 2:
    # x̂_1 = 1 + 0.5·2 = 2; mean = 1 − 0.25·2 − 0.49/(2·0.5)·2·0.25 = 0.5 − 0.245.
    one = torch.ones(1, 1, 1, 1)
    step = flow.flow_transition(2 * one, one, torch.tensor([0.5]), torch.tensor([0.25]), 0.9, 0.7)
    assert step.std.item() == pytest.approx(0.35, rel=1e-6)
    assert step.mean.item() == pytest.approx(0.255, rel=1e-6)


def test_the_first_flow_step_uses_the_time_after_it() -> None:
    # t = 1, t_first = 0.75: σ² = a²·1/0.25, std² = σ²·0.25 = a².
    std = flow.flow_std(torch.tensor([1.0, 0.75]), torch.tensor([0.75, 0.5]), 0.75, 0.7)
    torch.testing.assert_close(std, torch.tensor([0.7, 0.7 * math.sqrt(0.75)]))
    assert torch.isfinite(flow.flow_std(torch.tensor([1 - 1e-7]), torch.tensor([0.75]), 0.75, 0.7)).all()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_step_without_noise_is_the_library_s(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(6)
    sigmas, latents = scheduler.sigmas, tensors(0, 3, 4, 2, 2).float()
    for k, time in enumerate(scheduler.timesteps):
        output = tensors(k + 1, 3, 4, 2, 2).float()
        theirs = scheduler.step(output, time, latents).prev_sample
        t, t_next = sigmas[k].expand(3), sigmas[k + 1].expand(3)
        assert torch.equal(flow.flow_transition(output, latents, t, t_next, float(sigmas[1]), 0.0).mean, theirs)
        near = flow.flow_transition(output, latents, t, t_next, float(sigmas[1]), 1e-4)
        torch.testing.assert_close(near.mean, theirs, atol=1e-6, rtol=1e-6)
        assert near.std.max() < 1e-3
        latents = theirs


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), t=st.floats(0.05, 1.0), a=st.floats(0.1, 1.0))
def test_the_log_prob_of_a_flow_step_is_torch_s(seed: int, t: float, a: float) -> None:
    x, v, following = (tensors(seed + k, 2, 4, 2, 2).float() for k in range(3))
    step = flow.flow_transition(v, x, torch.full((2,), t), torch.full((2,), 0.9 * t), 0.9, a)
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
        std = flow.flow_std(t, t_next, float(times[1]), a)
        moved = x + (t_next - t) * velocity(x) - std**2 / (2 * t) * flow.velocity_to_noise(velocity(x), x, t)
        offset, gain = float(moved[0]), float(moved[1] - moved[0])
        mean, variance = offset + gain * mean, gain**2 * variance + float(std) ** 2
        if k % 100 == 0 and k:
            step = flow.flow_transition(velocity(x), x, t.expand(2), t_next.expand(2), float(times[1]), a)
            torch.testing.assert_close(step.mean.double(), moved, atol=1e-5, rtol=1e-5)
            expected = float((1 - t_next) ** 2 * s**2 + t_next**2)
            assert mean == pytest.approx(float(1 - t_next) * mu, abs=0.02)
            assert variance == pytest.approx(expected, rel=0.03)
    assert mean == pytest.approx(mu, abs=0.02)
    assert variance == pytest.approx(s**2, rel=0.03)
