"""The update: gradients that do not depend on how they are computed, and nothing learnt from nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch

from conftest import update_config
from hero.config import UpdateConfig
from hero.errors import TrainingError
from hero.noise import fresh_noise
from hero.policies import Conditioning, Policy
from hero.rollout import concatenate, rollout
from hero.types import Judged, Trajectory
from hero.update import make_update
from hero.update.ppo import PPO
from hero.update.replay import ReplayUpdate

PROMPTS = ("1 hand", "a person posing")
N = 6


class Rewards(NamedTuple):
    rewards: torch.Tensor
    advantages: torch.Tensor


ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, 2.0, -1.5, 0.0])
REWARDS = Rewards(torch.arange(N).float(), ADVANTAGES)


class Drawn:
    """A policy, a round that it drew, and an update of it."""

    def __init__(self, policy: Policy, **settings: Any) -> None:
        self.policy = policy
        self.conditioning: Conditioning = policy.encode(PROMPTS)
        index = torch.arange(N) % 2
        noise = fresh_noise(N, policy.latent_shape, seed=0, round_=1)
        chunks = rollout(policy, self.conditioning, index, noise, seed=0, round_=1, micro_batch=4)
        self.trajectory: Trajectory = concatenate([chunk.trajectory for chunk in chunks])
        values = {"timesteps_per_image": 2, "images_per_step": N, "micro_batch": 4, "max_grad_norm": 1e9, **settings}
        self.update = PPO(policy, update_config(**values), seed=0)

    def step(self, rewards: Rewards = REWARDS) -> Any:
        return self.update.step(Judged(self.trajectory, *rewards), self.conditioning, round_=1)

    def gradient(self) -> torch.Tensor:
        """Of the last optimizer step, flat."""
        return torch.cat([p.grad.flatten() for p in self.policy.parameters() if p.grad is not None])


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_gradient_does_not_depend_on_the_micro_batch(tiny_policy: Callable[..., Policy]) -> None:
    gradients = []
    for micro_batch in (3, 4, 12):
        drawn = Drawn(tiny_policy(), micro_batch=micro_batch)
        drawn.step()
        gradients.append(drawn.gradient())
    scale = gradients[0].abs().max()
    assert scale > 0
    for other in gradients[1:]:
        assert (other - gradients[0]).abs().max() < 1e-4 * scale


def test_the_same_micro_batch_gives_the_same_bits(tiny_policy: Callable[..., Policy]) -> None:
    one, two = (Drawn(tiny_policy(), images_per_step=2) for _ in range(2))
    assert one.step() == two.step()
    assert same(one.policy.state_dict(), two.policy.state_dict())
    assert same(one.update.state_dict(), two.update.state_dict())


@pytest.mark.parametrize("weight", ["uniform", "std"])
def test_the_gradient_is_the_mean_of_minus_advantage_times_the_score(
    tiny_policy: Callable[..., Policy], weight: str
) -> None:
    """At ratio one, the clipped objective's gradient is −mean(w·A·∇log π) over the chosen transitions, w = 1 or σ."""
    # All timesteps, so that the choice plays no part.
    drawn = Drawn(tiny_policy(), timesteps_per_image=4, timestep_weight=weight)
    drawn.step()
    found, again = drawn.gradient(), Drawn(tiny_policy())
    policy, path = again.policy, again.trajectory.latents
    loss = torch.zeros(())
    for i in range(N):
        rows = again.conditioning.rows(again.trajectory.prompt_index[i : i + 1])
        for k in range(4):
            step = policy.transition(path[i : i + 1, k], torch.tensor([k]), rows)
            log_prob = torch.distributions.Normal(step.mean, step.std).log_prob(path[i : i + 1, k + 1]).mean()
            w = step.std.item() if weight == "std" else 1.0
            loss = loss - w * ADVANTAGES[i] * log_prob / (N * 4)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, policy.parameters())])
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_images_of_high_advantage_become_likelier_and_of_low_less(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy(), learning_rate=1e-4, clip_range=0.5, timesteps_per_image=4)
    drawn.step()
    again = PPO(drawn.policy, update_config(timesteps_per_image=4, images_per_step=1, micro_batch=4,
                                                     learning_rate=1e-12, weight_decay=0), seed=0)  # fmt: skip
    ratios = []
    for i in range(N):
        only = torch.full((N,), float("nan"))
        only[i] = 1.0
        stats = again.step(Judged(drawn.trajectory, only, torch.ones(N)), drawn.conditioning, round_=1)
        assert stats is not None
        ratios.append(stats.figures["ratio_mean"])
    assert ratios[3] > 1 > ratios[4]  # advantages 2 and −1.5


def test_no_advantage_no_update(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy())
    before = drawn.policy.state_dict()
    assert drawn.step(Rewards(torch.ones(N), torch.zeros(N))) is None
    assert drawn.step(Rewards(torch.full((N,), float("nan")), torch.zeros(N))) is None
    assert same(drawn.policy.state_dict(), before)
    assert drawn.update.state_dict() == {}


def test_steps_and_transitions_are_counted(tiny_policy: Callable[..., Policy]) -> None:
    rewards = Rewards(torch.tensor([1.0, 0, float("nan"), 1, 0, 1]), torch.tensor([1.0, -1, 0, 1, -1, 1]))
    for images_per_step, epochs, steps in ((2, 1, 3), (4, 1, 2), (8, 1, 1), (2, 2, 6)):
        drawn = Drawn(tiny_policy(), timesteps_per_image=1, images_per_step=images_per_step, inner_epochs=epochs)
        assert drawn.step(rewards).steps == steps  # five of six images have a reward


def test_an_unrewarded_image_leaves_no_trace(tiny_policy: Callable[..., Policy]) -> None:
    rewards = Rewards(torch.tensor([1.0, 0, float("nan"), 1, 0, 1]), torch.tensor([1.0, -1, 0, 1, -1, 1]))
    one, two = Drawn(tiny_policy()), Drawn(tiny_policy())
    latents = two.trajectory.latents.clone()
    latents[2] = 7.0
    two.trajectory = replace(two.trajectory, latents=latents)
    assert one.step(rewards) == two.step(rewards)
    assert same(one.policy.state_dict(), two.policy.state_dict())


def test_only_steps_with_a_density_are_chosen(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy(), timesteps_per_image=3)
    two = torch.tensor([True, False, True, False])
    drawn.trajectory = replace(
        drawn.trajectory, trainable=two, log_probs=torch.where(two, drawn.trajectory.log_probs, 0)
    )
    # Three are wanted, two are there; a step without a density would have a ratio far from one.
    assert drawn.step().figures["first_ratio_deviation"] < 1e-6


def test_chosen_timesteps_are_drawn_anew_for_each_image_and_round(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy(), timesteps_per_image=1, learning_rate=1e-12, weight_decay=0)
    # Step k's old log-probability is too low by (k + 1)/100: the ratio tells which step was chosen.
    drawn.trajectory = replace(drawn.trajectory, log_probs=drawn.trajectory.log_probs - torch.arange(1, 5) / 100)

    def chosen(image: int, round_: int) -> int:
        only = torch.full((N,), float("nan"))
        only[image] = 1.0
        stats = drawn.update.step(Judged(drawn.trajectory, only, torch.ones(N)), drawn.conditioning, round_)
        assert stats is not None
        return round(100 * math.log(stats.figures["ratio_mean"])) - 1

    rounds = [[chosen(image, round_) for image in range(N)] for round_ in (1, 2)]
    assert {step for steps in rounds for step in steps} == {0, 1, 2, 3}
    assert all(len(set(steps)) > 1 for steps in rounds)
    assert rounds[0] != rounds[1]
    assert [chosen(image, 1) for image in range(N)] == rounds[0]


def test_no_timestep_is_chosen_twice(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy(), timesteps_per_image=4)
    drawn.trajectory = replace(drawn.trajectory, log_probs=drawn.trajectory.log_probs - torch.arange(1, 5) / 100)
    all_four = sum(math.exp(k / 100) for k in range(1, 5)) / 4
    assert drawn.step().figures["ratio_mean"] == pytest.approx(all_four, abs=1e-5)


def test_the_gradient_is_clipped_but_its_norm_reported(tiny_policy: Callable[..., Policy]) -> None:
    free, clipped = Drawn(tiny_policy()), Drawn(tiny_policy(), max_grad_norm=1e-3)
    norm = free.step().grad_norm
    assert norm > 1e-3
    assert clipped.step().grad_norm == pytest.approx(norm)
    assert clipped.gradient().norm().item() == pytest.approx(1e-3, rel=1e-3)
    assert free.gradient().norm().item() == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("place", ["latents", "log_probs"])
def test_what_is_not_a_number_takes_no_step(tiny_policy: Callable[..., Policy], place: str) -> None:
    drawn = Drawn(tiny_policy())
    before = drawn.policy.state_dict()
    damaged = getattr(drawn.trajectory, place).clone()
    damaged[0] = float("nan")
    drawn.trajectory = replace(drawn.trajectory, **{place: damaged})
    with pytest.raises(TrainingError, match=r"round 1: the loss is nan; lower update\.learning_rate"):
        drawn.step()
    assert same(drawn.policy.state_dict(), before)


def test_an_infinite_gradient_takes_no_step(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy())
    before = drawn.policy.state_dict()
    low = drawn.trajectory.log_probs.clone()
    low[3] = -200.0  # a ratio beyond fp32; with A > 0 the loss itself is clipped and finite
    drawn.trajectory = replace(drawn.trajectory, log_probs=low)
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        drawn.step()
    assert same(drawn.policy.state_dict(), before)


@pytest.mark.parametrize(("dtype", "recompute"), [("float32", "always"), ("bfloat16", "auto"), ("bfloat16", "always")])
def test_recomputed_log_probabilities_start_at_ratio_one_exactly(
    tiny_policy: Callable[..., Policy], dtype: str, recompute: str
) -> None:
    drawn = Drawn(tiny_policy(model={"dtype": dtype}), recompute_log_probs=recompute, images_per_step=2, micro_batch=3)
    before = drawn.trajectory.log_probs + 0.01  # more than any batch shape does
    drawn.trajectory = replace(drawn.trajectory, log_probs=before.clone())
    stats = drawn.step()
    assert stats.figures["first_ratio_deviation"] == 0
    assert stats.steps == 3
    assert stats.figures["ratio_mean"] != 1
    assert torch.equal(drawn.trajectory.log_probs, before)  # the stored ones stay as they were


@pytest.mark.parametrize(("dtype", "recompute"), [("float32", "auto"), ("bfloat16", "never")])
def test_else_the_log_probabilities_of_sampling_count(
    tiny_policy: Callable[..., Policy], dtype: str, recompute: str
) -> None:
    drawn = Drawn(tiny_policy(model={"dtype": dtype}), recompute_log_probs=recompute)
    drawn.trajectory = replace(drawn.trajectory, log_probs=drawn.trajectory.log_probs + 0.01)
    assert drawn.step().figures["first_ratio_deviation"] == pytest.approx(1 - math.exp(-0.01), abs=3e-4)


def test_memory_that_runs_out_later_leaves_no_error_of_a_batch_s_shape_in_the_ratios(
    tiny_policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half precision depends on a batch's shape, here plainly so, and the shape changes between two steps."""
    policy = tiny_policy(model={"dtype": "bfloat16"})
    # A step that cannot be told from none: a ratio that is not 1 can only come from a batch's shape.
    drawn = Drawn(policy, images_per_step=3, micro_batch=6, learning_rate=1e-12, weight_decay=0, timesteps_per_image=4)
    before, calls, transition = policy.state_dict(), 0, policy.transition

    def cramped(latents: torch.Tensor, *rest: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()
        if calls > 2 and len(latents) > 3:  # after the first optimizer step, which has two micro-batches
            raise torch.OutOfMemoryError("no room")
        found = transition(latents, *rest)
        return replace(found, mean=found.mean + 1e-3 * len(latents))

    monkeypatch.setattr(policy, "transition", cramped)
    stats = drawn.step()
    assert drawn.update.gradients.micro_batch == 3
    assert stats.steps == 2
    assert stats.figures["ratio_mean"] == 1
    assert stats.figures["kl"] == 0
    assert all((policy.state_dict()[name] - value).abs().max() < 1e-9 for name, value in before.items())


def test_a_restored_optimizer_goes_on_bit_for_bit(tiny_policy: Callable[..., Policy]) -> None:
    one = Drawn(tiny_policy(), images_per_step=2)
    one.step()
    two = Drawn(tiny_policy(), images_per_step=2)
    two.policy.load_state_dict(one.policy.state_dict())
    two.update.load_state_dict(one.update.state_dict())
    one.step()
    two.step()
    assert same(one.policy.state_dict(), two.policy.state_dict())
    assert same(one.update.state_dict(), two.update.state_dict())


def test_frozen_weights_have_no_update(tiny_policy: Callable[..., Policy]) -> None:
    assert make_update(tiny_policy(), UpdateConfig(kind="none"), seed=0) is None
    assert isinstance(make_update(tiny_policy(), UpdateConfig(), seed=0), ReplayUpdate)
