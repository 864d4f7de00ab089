"""Training in float16: gradients are those of fp32, overflow is survived, and the scale is part of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from conftest import update_config
from hero.noise import fresh_noise
from hero.policies import Policy
from hero.rollout import rollout
from hero.types import Judged, Trajectory
from hero.update.loss_scale import LossScale
from hero.update.ppo import PPO

CONFIG = update_config(timesteps_per_image=2, images_per_step=2, micro_batch=4, recompute_log_probs="always")


def draw(policy: Policy) -> Trajectory:
    noise, index = fresh_noise(2, policy.latent_shape, seed=0), torch.zeros(2, dtype=torch.int64)
    (chunk,) = rollout(policy, policy.encode(["1 hand"]), index, noise, seed=0, round_=1, micro_batch=2)
    return chunk.trajectory


def after_one_step(policy: Policy, trajectory: Trajectory, scale: float | None = None) -> tuple[PPO, torch.Tensor]:
    """The update after one optimizer step, and the gradient that it took, as one vector."""
    update = PPO(policy, CONFIG, seed=0)
    if scale is not None:
        assert update.gradients.scale is not None
        update.gradients.scale.value = scale
    # A loss is a mean over a latent's dimensions: 256 here, a thousand times as many in the largest models.
    advantages, before = torch.tensor([1.0, -1.0]) / 1024, policy.state_dict()
    stats = update.step(Judged(trajectory, advantages, advantages), policy.encode(["1 hand"]), 1)
    assert stats is not None
    assert stats.steps == 1
    assert abs(stats.loss) < 10
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    policy.load_state_dict(before)
    return update, gradient


def test_gradients_in_float16_are_those_of_fp32(tiny_policy: Callable[..., Policy]) -> None:
    half, full = tiny_policy(model={"dtype": "float16"}), tiny_policy()
    trajectory = draw(half)
    _, exact = after_one_step(full, trajectory)
    update, scaled = after_one_step(half, trajectory)
    assert torch.cosine_similarity(scaled, exact, dim=0) > 0.99
    assert (scaled == 0).float().mean() < 0.02 + (exact == 0).float().mean()
    _, unscaled = after_one_step(half, trajectory, scale=1.0)  # what it was without scaling
    assert (unscaled == 0).float().mean() > 0.05 + (scaled == 0).float().mean()
    assert update.gradients.scale is not None
    assert update.gradients.scale.steps == 1

    overflowing, gradient = after_one_step(half, trajectory, scale=2.0**40)
    assert overflowing.gradients.scale is not None
    assert 2.0 < overflowing.gradients.scale.value < 2.0**40
    assert torch.cosine_similarity(gradient, exact, dim=0) > 0.99

    state = overflowing.state_dict()
    again = PPO(half, CONFIG, seed=0)
    again.load_state_dict(state)
    assert again.gradients.scale == overflowing.gradients.scale
    assert again.state_dict().keys() == state.keys()
    assert PPO(full, CONFIG, seed=0).gradients.scale is None
    assert not [key for key in after_one_step(full, trajectory)[0].state_dict() if "scale" in key]


def test_the_scale_grows_after_steps_without_overflow_and_never_below_one() -> None:
    scale = LossScale(value=4.0)
    for _ in range(LossScale.GROWS_AFTER):
        assert scale.value == 4.0
        scale.step_taken()
    assert (scale.value, scale.steps) == (8.0, 0)
    assert [scale.overflowed() for _ in range(4)] == [True, True, True, False]
    assert scale.value == 1.0
    scale.value, scale.steps = LossScale.LARGEST, LossScale.GROWS_AFTER - 1
    scale.step_taken()
    assert scale.value == LossScale.LARGEST


@pytest.mark.parametrize("state", [{}, {"loss_scale": torch.tensor([2.0**16, 0.0])}])
def test_a_checkpoint_without_a_scale_begins_anew(state: dict[str, torch.Tensor]) -> None:
    scale = LossScale(value=2.0, steps=7)
    scale.load_state_dict(state)
    assert scale == LossScale()
