"""D3PO: its loss on numbers worked by hand, which pairs it learns from, and that winners gain on losers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.config import UpdateConfig
from hero.errors import ConfigError
from hero.methods import configure
from hero.noise import SharedNoise, StandardNoise
from hero.objectives.d3po import d3po_loss
from hero.policies import Conditioning, Policy
from hero.registry import SharedNoiseSettings
from hero.rollout import concatenate, rollout
from hero.types import Judged, Trajectory, UpdateStats
from hero.update import make_update
from hero.update.d3po import of_one_noise, some_pairs

PROMPTS = ("1 hand", "a person posing")
N = 6


# ---------------------------------------------------------------------------------------------- the loss


def loss_and_gradients(winner: float, loser: float, beta: float = 0.1, ratio_range: float = 0.1) -> list[float]:
    """The loss of one pair with these ratios, and its derivatives by log π of winner and loser."""
    log_probs = torch.tensor([[math.log(winner), math.log(loser)]], dtype=torch.float64) - 1.5
    log_probs.requires_grad_()
    loss, _ = d3po_loss(log_probs, torch.full((1, 2), -1.5, dtype=torch.float64), beta, ratio_range)
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    return [float(loss.item()), *gradient[0].tolist()]


def test_before_any_update_every_pair_costs_ln_2_and_pulls_by_half_of_beta() -> None:
    assert loss_and_gradients(1.0, 1.0) == pytest.approx([math.log(2), -0.05, 0.05], abs=1e-12)
    assert loss_and_gradients(1.0, 1.0, beta=4.0) == pytest.approx([math.log(2), -2.0, 2.0], abs=1e-12)


@pytest.mark.parametrize(
    ("winner", "loser", "margin", "winner_moves", "loser_moves"),
    [
        (1.05, 0.95, math.log(1.05 / 0.95), True, True),  # inside the range
        (1.2, 0.95, math.log(1.1 / 0.95), False, True),  # the winner has gained enough: held at 1.1
        (1.05, 0.5, math.log(1.05 / 0.9), True, False),  # the loser has lost enough: held at 0.9
        (1.2, 0.5, math.log(1.1 / 0.9), False, False),
        (0.8, 1.3, math.log(0.9 / 1.1), False, False),  # the wrong way: held, too, unlike in PPO
    ],
)
def test_every_case_of_the_clamp(
    winner: float, loser: float, margin: float, winner_moves: bool, loser_moves: bool
) -> None:
    pull = 2.0 / (1 + math.exp(2.0 * margin))  # β·σ(−β·margin), β = 2
    expected = [math.log1p(math.exp(-2.0 * margin)), -pull * winner_moves, pull * loser_moves]
    assert loss_and_gradients(winner, loser, beta=2.0) == pytest.approx(expected, abs=1e-12)


def test_a_ratio_hardly_off_one_keeps_its_digits_in_fp32() -> None:
    """exp(1e-6) in fp32 is 1 + 9.5e-7: its logarithm would be five per cent off."""
    log_probs = torch.tensor([[1e-6, 0.0]])
    loss, stats = d3po_loss(log_probs, torch.zeros(1, 2), 1e5, 0.1)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.1)), rel=1e-6)
    assert stats.margin.item() == pytest.approx(1e-6)


def test_statistics_are_of_the_ratios_as_they_are() -> None:
    log_probs = torch.tensor([[math.log(1.5), math.log(0.95)], [0.0, math.log(0.8)]], requires_grad=True)
    loss, stats = d3po_loss(log_probs, torch.zeros(2, 2), 0.1, 0.1)
    assert loss.shape == (2,)
    torch.testing.assert_close(stats.margin, torch.tensor([math.log(1.5 / 0.95), -math.log(0.8)]))
    assert stats.clamped.tolist() == [[True, False], [False, True]]
    assert not stats.margin.requires_grad


@settings(max_examples=50, deadline=None)
@given(winner=st.floats(0.5, 2.0), loser=st.floats(0.5, 2.0), beta=st.floats(0.01, 10.0))
def test_a_pair_and_its_reverse_cost_together_at_least_twice_ln_2(winner: float, loser: float, beta: float) -> None:
    """The loss is convex in the margin, and odd around its start."""
    there, back = loss_and_gradients(winner, loser, beta)[0], loss_and_gradients(loser, winner, beta)[0]
    assert there + back >= 2 * math.log(2) - 1e-9
    assert (there <= back) == (min(max(winner, 0.9), 1.1) >= min(max(loser, 0.9), 1.1)) or there == pytest.approx(back)


# ---------------------------------------------------------------------------------------------- which pairs


def test_no_more_pairs_than_are_asked_for_and_each_round_others() -> None:
    pairs = [(w, x) for w in range(8) for x in range(8, 16)]
    assert some_pairs(pairs, 64, seed=0, round_=1) == tuple(pairs)
    few = some_pairs(pairs, 10, seed=0, round_=1)
    assert len(few) == len(set(few)) == 10
    assert list(few) == sorted(few, key=pairs.index)
    torch.manual_seed(5)  # the global generator plays no part
    assert some_pairs(pairs, 10, seed=0, round_=1) == few
    assert some_pairs(pairs, 10, seed=0, round_=2) != few
    assert some_pairs(pairs, 10, seed=1, round_=1) != few
    drawn = [pair for round_ in range(200) for pair in some_pairs(pairs, 10, seed=0, round_=round_)]
    assert min(map(drawn.count, pairs)) > 10  # 31 are expected of each


def test_images_of_one_noise_are_compared_or_all_of_a_prompt() -> None:
    """Three images started from one noise, the last from another."""
    noise = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))[torch.tensor([0, 0, 0, 1])]
    trajectory = Trajectory(noise[:, None], torch.zeros(4, 0), torch.zeros(0, dtype=torch.bool), torch.zeros(4).long())
    judged = Judged(trajectory, torch.zeros(4), torch.zeros(4), ((0, 1), (0, 3), (2, 1), (2, 3)))
    assert of_one_noise(judged) == ((0, 1), (2, 1))


# ---------------------------------------------------------------------------------------------- the update


class Drawn:
    """A policy, a round that it drew, and D3PO on it."""

    def __init__(self, policy: Policy, shared: int | None = None, **table: Any) -> None:
        self.policy = policy
        self.conditioning: Conditioning = policy.encode(PROMPTS)
        index = torch.arange(N) % 2
        kind = StandardNoise() if shared is None else SharedNoise((), SharedNoiseSettings(group_size=shared))
        noise = kind.sample([PROMPTS[k] for k in index], policy.latent_shape, seed=0, round_=1)
        chunks = rollout(policy, self.conditioning, index, noise, seed=0, round_=1, micro_batch=4)
        self.trajectory = concatenate([chunk.trajectory for chunk in chunks])
        common = {key: table.pop(key) for key in ("images_per_step", "learning_rate", "micro_batch") if key in table}
        within = "prompt" if shared is None else "noise"
        own = {"within": within, "timesteps_per_image": 4, **table}
        values = {"images_per_step": N, "micro_batch": 4, "learning_rate": 1e-4, "weight_decay": 0.0, **common}
        update = make_update(policy, UpdateConfig.model_validate({"kind": "d3po", "d3po": own, **values}), seed=0)
        assert update is not None
        self.update = update

    def step(self, pairs: Sequence[tuple[int, int]]) -> UpdateStats | None:
        judged = Judged(self.trajectory, torch.zeros(N), torch.zeros(N), tuple(pairs))  # rewards play no part
        return self.update.step(judged, self.conditioning, round_=1)

    @torch.no_grad()
    def log_probs(self) -> torch.Tensor:
        """(N,) mean log-probability of each image's steps under the policy as it is now."""
        path, rows = self.trajectory.latents, self.conditioning.rows(self.trajectory.prompt_index)
        steps = [
            self.policy.transition(path[:, k], torch.full((N,), k), rows).log_prob(path[:, k + 1]) for k in range(4)
        ]
        return torch.stack(steps).mean(0)


PAIRS = ((0, 2), (5, 1))


def test_winners_become_likelier_and_losers_less_likely(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy())
    before = drawn.log_probs()
    first = drawn.step(PAIRS)
    assert first is not None
    assert first.figures["first_margin_deviation"] < 1e-6
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    for _ in range(3):
        stats = drawn.step(PAIRS)
        assert stats is not None
    gained = drawn.log_probs() - before
    assert min(gained[0], gained[5]) > 0 > max(gained[2], gained[1])
    assert stats.figures["margin"] > first.figures["first_margin_deviation"]
    assert stats.figures["pair_accuracy"] > 0.5
    assert stats.figures["pairs"] == 2


def test_a_ratio_outside_its_range_moves_nothing(tiny_policy: Callable[..., Policy]) -> None:
    drawn = Drawn(tiny_policy())
    before = drawn.policy.state_dict()
    for offset in (-0.2, 0.2):  # ratios of 1.22 and 0.82
        drawn.trajectory = replace(drawn.trajectory, log_probs=drawn.trajectory.log_probs + offset)
        stats = drawn.step(PAIRS)
        assert stats is not None
        assert (stats.figures["clamped_fraction"], stats.grad_norm) == (1, 0)
        assert all(torch.equal(value, before[name]) for name, value in drawn.policy.state_dict().items())
        drawn.trajectory = replace(drawn.trajectory, log_probs=drawn.trajectory.log_probs - offset)
    moved = drawn.step(PAIRS)
    assert moved is not None
    assert moved.grad_norm > 0


def test_pairs_are_counted_as_two_images_of_a_step(tiny_policy: Callable[..., Policy]) -> None:
    pairs = ((0, 2), (0, 4), (1, 3), (1, 5), (2, 4))
    for images_per_step, most, steps in ((4, 9, 3), (2, 9, 5), (1, 9, 5), (4, 2, 1)):
        drawn = Drawn(tiny_policy(), images_per_step=images_per_step, pairs_per_round=most, timesteps_per_image=1)
        stats = drawn.step(pairs)
        assert stats is not None
        assert (stats.steps, stats.figures["pairs"]) == (steps, min(most, 5))


def test_images_without_a_pair_leave_no_trace_and_no_pair_means_no_update(tiny_policy: Callable[..., Policy]) -> None:
    one, two = Drawn(tiny_policy()), Drawn(tiny_policy())
    latents = two.trajectory.latents.clone()
    latents[[3, 4]] = 7.0
    two.trajectory = replace(two.trajectory, latents=latents)
    assert one.step(PAIRS) == two.step(PAIRS)
    before = one.policy.state_dict()
    assert one.step(()) is None
    assert all(torch.equal(value, before[name]) for name, value in one.policy.state_dict().items())


def test_with_shared_noise_only_images_of_a_group_are_compared(tiny_policy: Callable[..., Policy]) -> None:
    """Groups of two: images 0 and 2, and 1 and 3; images 4 and 5 are groups of one."""
    drawn = Drawn(tiny_policy(), shared=2)
    assert drawn.step(((0, 4), (3, 5))) is None
    stats = drawn.step(((0, 2), (0, 4), (3, 1), (3, 5)))
    assert stats is not None
    assert stats.figures["pairs"] == 2


# ---------------------------------------------------------------------------------------------- settings


def test_the_paper_s_values_on_stable_diffusion_and_own_ones_elsewhere() -> None:
    for method, within in (("d3po", "noise"), ("d3po-fresh", "prompt")):
        published = configure("hand", method=method, preset="stable-diffusion")
        table = published.update.own
        assert table is not None
        assert table.model_dump(include={"beta", "ratio_range", "timesteps_per_image", "within"}) == {
            "beta": 0.1,
            "ratio_range": 0.1,
            "timesteps_per_image": 20,
            "within": within,
        }
        assert published.update.learning_rate == 3e-5
        assert configure("hand", method=method).update.learning_rate > 3e-5
        for preset in ("sdxl", "sd3", "flux"):  # no more steps are trained than are taken
            assert configure("hand", method=method, preset=preset).update.learning_rate == 3e-5


def test_comparing_within_a_noise_takes_noise_that_is_shared() -> None:
    with pytest.raises(ConfigError, match=r"within is 'noise', but with noise\.kind = 'standard' every image has"):
        configure("hand", method="d3po", settings={"noise": {"kind": "standard"}})
    with pytest.raises(ConfigError, match="deterministic sampler"):
        configure("hand", method="d3po", settings={"sampling": {"eta": 0.0}})
