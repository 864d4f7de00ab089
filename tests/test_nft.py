"""The negative-aware objective on numbers worked by hand, and its update on the random tiny model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hero.config import UpdateConfig
from hero.objectives.nft import nft_loss
from hero.policies import Policy
from hero.types import Judged, Trajectory
from hero.update import make_update


def loss_and_gradient(output: float, old: float, target: float, r: float, beta: float) -> tuple[float, float]:
    """The loss of one example of one number, and its derivative by the output."""
    y = torch.tensor([[output]], dtype=torch.float64, requires_grad=True)
    given = (torch.tensor([[x]], dtype=torch.float64) for x in (old, target))
    loss = nft_loss(y, *given, torch.tensor([r], dtype=torch.float64), beta)
    (gradient,) = torch.autograd.grad(loss.sum(), y)
    return float(loss.item()), float(gradient.item())


@pytest.mark.parametrize(
    ("output", "old", "target", "r", "beta", "loss", "gradient"),
    [
        # y⁺ = 3, error 3 − 1 = 2, w = 2: loss 4/2; gradient 2·2/2
        (3.0, 2.0, 1.0, 1.0, 1.0, 2.0, 2.0),
        # y⁻ = 2·2 − 3 = 1, no error: w is at its least, loss and gradient 0
        (3.0, 2.0, 1.0, 0.0, 1.0, 0.0, 0.0),
        # r = ½ at y = old: both errors are 1 and the gradients cancel
        (2.0, 2.0, 1.0, 0.5, 1.0, 1.0, 0.0),
        # β = ½: y⁺ = (2 + 4)/2 = 3, error 2, w = 2; loss (1/½)·4/2 = 4; gradient (1/½)·(2·2/2)·½ = 2
        (4.0, 2.0, 1.0, 1.0, 0.5, 4.0, 2.0),
        # β = ½, r = 0: y⁻ = 1.5·2 − 0.5·4 = 1, no error
        (4.0, 2.0, 1.0, 0.0, 0.5, 0.0, 0.0),
    ],
)
def test_loss_and_gradient(
    output: float, old: float, target: float, r: float, beta: float, loss: float, gradient: float
) -> None:
    assert loss_and_gradient(output, old, target, r, beta) == pytest.approx((loss, gradient))


@given(r=st.floats(0, 1), old=st.floats(-2, 2), beta=st.floats(0.1, 2))
def test_at_the_old_policy_good_images_attract_and_bad_ones_repel(r: float, old: float, beta: float) -> None:
    _, gradient = loss_and_gradient(old, old, 3.0, r, beta)
    # Both errors are old − target, so that the gradient is (2r − 1)·2·error/w = ∓2(2r − 1).
    assert gradient == pytest.approx(-2 * (2 * r - 1), abs=1e-9)


def test_examples_of_all_scales_weigh_alike() -> None:
    """w divides an example's squared error by its size, so that the gradient per number does not depend on it."""
    output = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0] * 5, [100.0] * 5], dtype=torch.float64)
    nft_loss(output, output.detach(), target, torch.ones(2, dtype=torch.float64), 1.0).sum().backward()
    assert output.grad is not None
    torch.testing.assert_close(output.grad[0], output.grad[1])


def judged_round(policy: Policy, rewards: list[float]) -> Judged:
    n, shape = len(rewards), policy.latent_shape
    latents = 0.3 * torch.randn(n, policy.num_steps + 1, *shape, generator=torch.Generator().manual_seed(1))
    latents += 1
    trajectory = Trajectory(
        latents, torch.zeros(n, policy.num_steps), policy.trainable_steps, torch.zeros(n, dtype=torch.int64)
    )
    given = torch.tensor(rewards)
    return Judged(trajectory, given, given.nan_to_num(0.5) - 0.5)


def nft(**settings: Any) -> UpdateConfig:
    own = {"optimality": "reward", "levels_per_image": 2, **settings}
    return UpdateConfig.model_validate(
        {"kind": "nft", "learning_rate": 1e-2, "images_per_step": 4, "micro_batch": 8, "inner_epochs": 8, "nft": own}
    )


def error(policy: Policy, judged: Judged) -> float:
    """The mean squared error of predictions for the final latents."""
    sample = judged.trajectory.final_latents
    t = torch.full((len(sample),), 0.5)
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(2))
    conditioning = policy.encode(["1 hand"]).rows(judged.trajectory.prompt_index)
    with torch.no_grad():
        output = policy.predict(policy.steps.noised(sample, noise, t), t, conditioning, guided=False)
    return float((output - policy.steps.target(sample, noise, t)).square().mean())


def test_predictions_get_better_for_good_images_and_worse_for_bad_ones(tiny_policy: Callable[..., Policy]) -> None:
    change = {}
    for reward in (1.0, 0.0):
        policy = tiny_policy()
        judged = judged_round(policy, [reward] * 4)
        before = error(policy, judged)
        update = make_update(policy, nft(), seed=0)
        assert update is not None
        stats = update.step(judged, policy.encode(["1 hand"]), 1)
        assert stats is not None
        assert stats.steps == 8
        assert stats.figures["moved"] > 0
        change[reward] = error(policy, judged) / before
    assert change[1.0] < 0.99
    assert change[0.0] > 1.01


def test_the_pull_keeps_the_model_near_the_base(tiny_policy: Callable[..., Policy]) -> None:
    pulled = {}
    for pull in (1e-6, 10.0):
        policy = tiny_policy()
        judged = judged_round(policy, [1.0, 1.0, 0.0, 0.0])
        update = make_update(policy, nft(pull=pull), seed=0)
        assert update is not None
        for round_ in (1, 2):
            stats = update.step(judged, policy.encode(["1 hand"]), round_)
        assert stats is not None
        pulled[pull] = stats.figures["pulled"]
    assert pulled[10.0] < 0.8 * pulled[1e-6]


def test_the_published_optimality_comes_from_the_advantage(tiny_policy: Callable[..., Policy]) -> None:
    """Equal r gives equal weights, whether it is the reward itself or ½ + ½·A/5."""
    found = []
    for settings in ({"optimality": "reward"}, {"optimality": "advantage", "advantage_scale": 5.0}):
        policy = tiny_policy()
        judged = judged_round(policy, [0.9, 0.6, 0.5, 0.0])
        judged = replace(judged, advantages=5 * (2 * judged.rewards - 1))
        make_update(policy, nft(**settings), seed=0).step(judged, policy.encode(["1 hand"]), 1)  # type: ignore[union-attr]
        found.append(policy.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


def test_images_without_a_reward_are_left_out(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    update = make_update(policy, nft(), seed=0)
    assert update is not None
    judged = judged_round(policy, [1.0, float("nan"), 0.0])
    assert list(update.images(judged)) == [0, 2]  # type: ignore[attr-defined]
    assert update.step(judged_round(policy, [float("nan")] * 3), policy.encode(["1 hand"]), 1) is None


def test_noise_levels_are_spread_over_their_range(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    for least in (0.0, 0.4):
        update = make_update(policy, nft(levels_per_image=4, least_level=least), seed=0)
        drawn = [float(update._drawn(1, image, 0, level)[1]) for image in range(20) for level in range(4)]  # type: ignore[union-attr]
        parts = [int((t - least) / (1 - least) * 4 - 1e-9) for t in drawn]
        assert parts == [0, 1, 2, 3] * 20
