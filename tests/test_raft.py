"""RAFT: the denoising loss on numbers worked by hand, and that good images alone are learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hero.config import UpdateConfig
from hero.noise import fresh_noise
from hero.objectives.denoising import denoising_loss
from hero.policies import Policy
from hero.rollout import concatenate, rollout
from hero.types import Judged, UpdateStats
from hero.update import make_update

PROMPTS = ("1 hand", "a person posing")
N = 6
GOOD = (0, 3)
REWARDS = torch.tensor([1.0, 0, 0, 1, float("nan"), 0])
ADVANTAGES = torch.tensor([1.2, -0.8, -0.8, 1.2, 0.0, -0.8])


def test_the_denoising_loss_worked_by_hand() -> None:
    output = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[0.0, 0.0], [0.0, 1.0]]]], requires_grad=True)
    target = torch.tensor([[[[1.0, 0.0], [0.0, 4.0]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    loss = denoising_loss(output, target)
    assert loss.tolist() == [3.25, 0.0]  # (0 + 4 + 9 + 0)/4
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    assert gradient[0].flatten().tolist() == [0.0, 1.0, 1.5, 0.0]  # 2·difference/4
    assert not gradient[1].any()


class Drawn:
    """A policy, a round that it drew, and RAFT on it."""

    def __init__(self, policy: Policy, **settings: Any) -> None:
        self.policy, self.conditioning = policy, policy.encode(PROMPTS)
        index = torch.arange(N) % 2
        noise = fresh_noise(N, policy.latent_shape, seed=0, round_=1)
        chunks = rollout(policy, self.conditioning, index, noise, seed=0, round_=1, micro_batch=4)
        self.trajectory = concatenate([chunk.trajectory for chunk in chunks])
        values = {"images_per_step": 2, "micro_batch": 3, "learning_rate": 1e-3, "weight_decay": 0.0, **settings}
        update = make_update(policy, UpdateConfig.model_validate({"kind": "raft", **values}), seed=0)
        assert update is not None
        self.update = update

    def step(self, round_: int = 1, advantages: torch.Tensor = ADVANTAGES) -> UpdateStats | None:
        return self.update.step(Judged(self.trajectory, REWARDS, advantages), self.conditioning, round_)

    @torch.no_grad()
    def error(self, images: tuple[int, ...]) -> float:
        """How far the predicted noise is from the one that was added, at held-out noises and all levels."""
        rows = torch.tensor(images).repeat_interleave(8)
        noise = torch.randn((len(rows), *self.policy.latent_shape), generator=torch.Generator().manual_seed(1))
        t = torch.linspace(0.05, 0.95, 8).repeat(len(images))
        noised = self.policy.steps.noised(self.trajectory.final_latents[rows], noise, t)
        conditioning = self.conditioning.rows(self.trajectory.prompt_index[rows])
        predicted = self.policy.predict(noised, t, conditioning, guided=False)
        return float((self.policy.steps.to_noise(predicted, noised, t) - noise).square().mean())


def test_good_images_are_denoised_better_after_it(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy())
    before = drawn.error(GOOD)
    for round_ in range(1, 13):
        stats = drawn.step(round_)
        assert stats is not None
        assert stats.steps == 1  # two good images, two a step
        assert 0 < stats.figures["prediction_error"] ** 2 <= stats.loss * 1.0001
    assert drawn.error(GOOD) < before - 0.01


def test_bad_and_unlabelled_images_leave_no_trace(tiny_policy: Callable[..., Policy]) -> None:
    one, two = Drawn(tiny_policy()), Drawn(tiny_policy())
    latents = two.trajectory.latents.clone()
    latents[[k for k in range(N) if k not in GOOD]] = 7.0
    latents[:, :-1] = 7.0  # how good ones were drawn plays no part, only how they ended
    two.trajectory = replace(two.trajectory, latents=latents)
    assert one.step() == two.step()
    assert all(torch.equal(a, b) for a, b in zip(*(d.policy.state_dict().values() for d in (one, two)), strict=True))


def test_without_a_good_image_or_a_bad_one_nothing_is_learnt(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy())
    before = drawn.policy.state_dict()
    assert drawn.step(advantages=torch.zeros(N)) is None
    assert all(torch.equal(value, before[name]) for name, value in drawn.policy.state_dict().items())


@pytest.mark.parametrize(("levels", "micro_batch"), [(1, 8), (4, 2), (4, 3)])
def test_the_gradient_does_not_depend_on_the_micro_batch(
    tiny_policy: Callable[..., Policy], levels: int, micro_batch: int
) -> None:
    norms = []
    for size in (micro_batch, 1):
        stats = Drawn(tiny_policy(), micro_batch=size, raft={"levels_per_image": levels}).step()
        assert stats is not None
        norms.append(stats.grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
