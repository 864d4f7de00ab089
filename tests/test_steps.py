"""Noise levels: one meaning for every kind of schedule, conversions there and back, the same numbers as the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.errors import ModelError
from hero.policies.steps import VISIBLE_NOISE, DDIMSteps, FlowSteps, check_noise_left, noise_left
from hero.transitions.ddim import to_sample_and_epsilon

CPU = torch.device("cpu")
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def ddim(prediction: str, num_steps: int = 10, eta: float = 1.0) -> tuple[DDIMSteps, DDIMScheduler]:
    scheduler = DDIMScheduler(**SCHEDULE, prediction_type=prediction)
    return DDIMSteps(scheduler, num_steps, eta, CPU), scheduler


def flow(num_steps: int = 10, a: float = 0.7, shift: float = 3.0) -> tuple[FlowSteps, FlowMatchEulerDiscreteScheduler]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    return FlowSteps(scheduler, a, CPU), scheduler


KINDS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "epsilon": lambda **given: ddim("epsilon", **given),
    "v_prediction": lambda **given: ddim("v_prediction", **given),
    "sample": lambda **given: ddim("sample", **given),
    "flow": flow,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def tensors(seed: int, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 3, 4, generator=source), torch.randn(n, 2, 3, 4, generator=source)


@every_kind
@settings(max_examples=40, deadline=None)
@given(t=st.floats(0.002, 0.998), seed=st.integers(0, 2**31))
def test_a_perfect_output_gives_the_sample_and_the_noise_back(kind: str, t: float, seed: int) -> None:
    steps, _ = KINDS[kind]()
    sample, noise = tensors(seed)
    level = torch.tensor([t, 0.5, 1.0 - t])
    latents = steps.noised(sample, noise, level)
    output = steps.target(sample, noise, level)
    torch.testing.assert_close(steps.to_sample(output, latents, level), sample, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(steps.to_noise(output, latents, level), noise, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("kind", "expected"), [("epsilon", 3.0), ("sample", 2.0), ("v_prediction", 0.6 * 3 - 0.8 * 2)])
def test_ddim_levels_worked_by_hand(kind: str, expected: float) -> None:
    # ᾱ = 0.8, then 0.36: at timestep 1, which is t = 1, √ᾱ = 0.6 and √(1−ᾱ) = 0.8.
    scheduler = DDIMScheduler(trained_betas=[0.2, 0.55], num_train_timesteps=2, clip_sample=False, prediction_type=kind)
    steps = DDIMSteps(scheduler, 2, 0.0, CPU)
    sample, noise, t = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0), torch.ones(1)
    assert steps.times_at(torch.tensor([0.5, 1.0])).tolist() == [0, 1]
    torch.testing.assert_close(steps.noised(sample, noise, t).item(), 0.6 * 2 + 0.8 * 3)
    torch.testing.assert_close(steps.target(sample, noise, t).item(), expected)


def test_flow_levels_worked_by_hand() -> None:
    steps, _ = flow()
    sample, noise, t = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 6.0), torch.tensor([0.25])
    assert steps.times_at(t).tolist() == [250.0]
    assert steps.noised(sample, noise, t).item() == 0.75 * 2 + 0.25 * 6
    assert steps.target(sample, noise, t).item() == 4.0
    assert steps.to_sample(torch.full((1, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1), 3.0), t).item() == 2.0
    assert steps.to_noise(torch.full((1, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1), 3.0), t).item() == 6.0


def test_noise_and_velocity_are_the_library_s() -> None:
    steps, scheduler = ddim("v_prediction")
    sample, noise = tensors(0)
    t = torch.tensor([0.001, 0.25, 1.0])
    index = torch.tensor([0, 249, 999])
    assert torch.equal(steps.times_at(t), index)
    assert torch.equal(steps.noised(sample, noise, t), scheduler.add_noise(sample, noise, index))
    assert torch.equal(steps.target(sample, noise, t), scheduler.get_velocity(sample, noise, index))

    at_sigma, euler = flow()
    levels = at_sigma.levels[[0, 4, 9]]
    library = euler.scale_noise(sample, euler.timesteps[[0, 4, 9]], noise)
    torch.testing.assert_close(at_sigma.noised(sample, noise, levels), library)


def test_levels_between_two_timesteps_are_rounded_to_the_nearest() -> None:
    steps, _ = ddim("epsilon")
    t = torch.tensor([1e-6, 0.0014, 0.0016, 0.25049, 0.9999])
    assert steps.times_at(t).tolist() == [0, 0, 1, 249, 999]
    sample, noise = tensors(0, n=2)
    near, at = (steps.noised(sample, noise, torch.full((2,), t)) for t in (0.25049, 0.25))
    assert torch.equal(near, at)


@every_kind
def test_steps_begin_at_levels_of_theirs(kind: str) -> None:
    steps, _ = KINDS[kind]()
    assert torch.equal(steps.times_at(steps.levels), steps.times)
    assert bool((steps.levels.diff() < 0).all())
    assert 0 < steps.levels.min() <= steps.levels.max() <= 1


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddim_steps_see_the_sample_and_the_noise_of_their_level(kind: str) -> None:
    steps, _ = ddim(kind)
    output, latents = tensors(1, n=10)
    sample, noise = to_sample_and_epsilon(output, latents, steps.alpha_bar.view(-1, 1, 1, 1), steps.prediction)
    assert torch.equal(steps.to_sample(output, latents, steps.levels), sample)
    assert torch.equal(steps.to_noise(output, latents, steps.levels), noise)


@every_kind
def test_a_step_without_noise_is_the_sample_noised_to_the_next_level(kind: str) -> None:
    steps, _ = KINDS[kind](**({"a": 0.0} if kind == "flow" else {"eta": 0.0}))
    output, latents = tensors(2, n=9)
    k = torch.arange(9)
    mean = steps.transition(output, latents, k).mean
    sample, noise = (convert(output, latents, steps.levels[k].clone()) for convert in (steps.to_sample, steps.to_noise))
    torch.testing.assert_close(mean, steps.noised(sample, noise, steps.levels[k + 1]), atol=1e-4, rtol=1e-4)


@every_kind
@pytest.mark.parametrize("t", [0.0, -0.1, 1.001, float("nan")])
def test_levels_outside_are_refused(kind: str, t: float) -> None:
    steps, _ = KINDS[kind]()
    sample, noise = tensors(0, n=1)
    for call in (
        lambda level: steps.times_at(level),
        lambda level: steps.noised(sample, noise, level),
        lambda level: steps.to_sample(noise, sample, level),
        lambda level: steps.target(sample, noise, level),
    ):
        with pytest.raises(ValueError, match=r"noise levels lie in \(0, 1\]; got "):
            call(torch.tensor([t]))


@every_kind
def test_half_precision_is_computed_in_single(kind: str) -> None:
    steps, _ = KINDS[kind]()
    sample, noise = (x.bfloat16() for x in tensors(3))
    t = torch.tensor([0.1, 0.5, 0.9])
    for found, wanted in (
        (steps.noised(sample, noise, t), steps.noised(sample.float(), noise.float(), t)),
        (steps.target(sample, noise, t), steps.target(sample.float(), noise.float(), t)),
        (steps.to_sample(noise, sample, t), steps.to_sample(noise.float(), sample.float(), t)),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


# ---------------------------------------------------------------------------------------------- noise that is left


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize(("num_steps", "a"), [(4, 1.0), (6, 0.9), (10, 0.7)])
def test_a_flow_leaves_no_noise_of_its_own_in_a_picture(num_steps: int, a: float, shift: float) -> None:
    """A perfect model of one known picture ends at that picture, also where a schedule ends in a tiny step."""
    steps, scheduler = flow(num_steps, a, shift)
    assert noise_left(steps) < 1e-5
    assert not steps.trainable[-1]
    assert steps.trainable.any()
    assert bool((steps.std[steps.trainable] >= FlowSteps.NARROWEST).all())
    source = torch.Generator().manual_seed(0)
    picture, x = torch.randn(1, 4, 8, 8, generator=source), torch.randn(1, 4, 8, 8, generator=source)
    for k, t in enumerate(scheduler.sigmas[:-1]):
        step = steps.transition((x - picture) / t, x, torch.tensor([k]))
        x = step.sample(torch.randn(x.shape, generator=source))
    torch.testing.assert_close(x, picture, atol=1e-4, rtol=1e-4)


def test_what_a_ddim_schedule_leaves_is_that_of_its_end() -> None:
    ends_clean, ends_at_the_first_beta = (
        DDIMSteps(DDIMScheduler(**SCHEDULE | {"set_alpha_to_one": clean}), 10, 1.0, CPU) for clean in (True, False)
    )
    assert noise_left(ends_clean) < 1e-4
    assert noise_left(ends_at_the_first_beta) == pytest.approx(0.00085**0.5, rel=1e-3)
    check_noise_left(ends_at_the_first_beta)


def test_a_schedule_that_leaves_visible_noise_is_refused() -> None:
    scheduler = DDIMScheduler(
        trained_betas=[0.04, 0.5], num_train_timesteps=2, clip_sample=False, set_alpha_to_one=False
    )
    steps = DDIMSteps(scheduler, 2, 1.0, CPU)
    assert noise_left(steps) == pytest.approx(0.2, rel=0.03)
    assert noise_left(steps) > VISIBLE_NOISE
    with pytest.raises(ModelError, match=r"noise of standard deviation 0\.2 stays in every picture"):
        check_noise_left(steps)


def test_a_flow_of_one_step_has_nothing_to_train() -> None:
    with pytest.raises(ModelError, match=r"num_steps = 1: with this scheduler no step has a density"):
        flow(1, 0.7)
    assert not flow(1, 0.0)[0].trainable.any()
