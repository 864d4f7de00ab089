"""Rollouts: what a trajectory holds, in which dtype, and that what is not a number is noticed at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hero.errors import TrainingError
from hero.noise import StandardNoise
from hero.policies import Policy
from hero.rollout import RolloutChunk, concatenate, draw_images, rollout
from hero.types import Trajectory

PROMPTS = ("1 hand", "a person posing")


def chunks_of(policy: Policy, n: int = 5, micro_batch: int = 2) -> list[RolloutChunk]:
    index = torch.arange(n) % 2
    noise = StandardNoise().sample([PROMPTS[k] for k in index], policy.latent_shape, seed=0, round_=1)
    conditioning = policy.encode(PROMPTS)
    return list(rollout(policy, conditioning, index, noise, seed=0, round_=1, micro_batch=micro_batch))


def test_chunks_come_in_order_and_make_up_the_round(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    chunks = chunks_of(policy)
    assert [list(chunk.indices) for chunk in chunks] == [[0, 1], [2, 3], [4]]
    assert [len(chunk.images) for chunk in chunks] == [2, 2, 1]
    assert {image.size for chunk in chunks for image in chunk.images} == {(32, 32)}
    whole = concatenate([chunk.trajectory for chunk in chunks])
    assert whole.latents.shape == (5, policy.num_steps + 1, *policy.latent_shape)
    assert whole.log_probs.shape == (5, policy.num_steps)
    assert whole.prompt_index.tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(whole.trainable, policy.trainable_steps)
    noise = StandardNoise().sample(PROMPTS * 3, policy.latent_shape, seed=0, round_=1)[:5]
    assert torch.equal(whole.initial_noise, noise)
    assert not whole.latents.requires_grad


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_log_probabilities_are_those_of_the_stored_latents(tiny_policy: Callable[..., Policy], dtype: str) -> None:
    policy = tiny_policy(model={"dtype": dtype})
    trajectory = chunks_of(policy, n=2)[0].trajectory
    assert trajectory.latents.dtype == policy.storage_dtype
    assert trajectory.log_probs.dtype == torch.float32
    conditioning = policy.encode(PROMPTS).rows(torch.tensor([0, 1]))
    with torch.no_grad():
        for k in range(policy.num_steps):
            step = policy.transition(trajectory.latents[:, k], torch.full((2,), k), conditioning)
            normal = torch.distributions.Normal(step.mean, step.std)
            expected = normal.log_prob(trajectory.latents[:, k + 1].float()).mean(dim=(1, 2, 3))
            torch.testing.assert_close(trajectory.log_probs[:, k], expected, atol=1e-6, rtol=1e-6)


def test_steps_without_a_density_hold_zero(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy(sampling={"eta": 0.0}, update={"kind": "none"})
    trajectory = chunks_of(policy, n=2)[0].trajectory
    assert not trajectory.trainable.any()
    assert torch.equal(trajectory.log_probs, torch.zeros(2, policy.num_steps))
    assert torch.isfinite(trajectory.latents).all()


def test_the_decoded_image_is_that_of_the_final_latent(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    chunk = chunks_of(policy, n=2)[0]
    trajectory: Trajectory = chunk.trajectory
    for ours, theirs in zip(chunk.images, policy.decode(trajectory.final_latents), strict=True):
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    before = policy.decode(trajectory.latents[:, -2])
    assert not np.array_equal(np.asarray(chunk.images[0]), np.asarray(before[0]))


def test_latents_that_are_not_numbers_are_an_error(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.parameters()[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        chunks_of(policy)


def test_gradients_are_off_inside_and_as_before_outside(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    noise = StandardNoise().sample(PROMPTS, policy.latent_shape, seed=0, round_=1)
    seen = []
    for chunk in rollout(policy, policy.encode(PROMPTS), torch.tensor([0, 1]), noise, seed=0, round_=1, micro_batch=1):
        seen.append((torch.is_grad_enabled(), chunk.trajectory.latents.requires_grad))
    assert seen == [(True, False)] * 2


def test_drawing_images_follows_the_prompts_in_any_order(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    noise = StandardNoise().sample(["x"] * 3, policy.latent_shape, seed=0, round_=0)
    drawn: list[int] = []
    images = draw_images(
        policy, (PROMPTS[1], PROMPTS[0], PROMPTS[1]), noise, seed=0, stage="s", micro_batch=2, on_chunk=drawn.append
    )
    assert drawn == [2, 1]
    again = draw_images(policy, (PROMPTS[1],), noise[:1], seed=0, stage="s", micro_batch=2)
    other = draw_images(policy, (PROMPTS[0],), noise[:1], seed=0, stage="s", micro_batch=2)
    near, far = (np.abs(np.asarray(images[0], int) - np.asarray(x[0], int)).max() for x in (again, other))
    assert near <= 1 < far
