"""The clipped objective on numbers worked by hand, gradients included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.objectives.ppo import ppo_loss


def loss_and_gradient(ratio: float, advantage: float, clip_range: float) -> tuple[float, float]:
    """The loss of one transition and its derivative by log π."""
    log_prob = torch.tensor([math.log(ratio) - 1.5], dtype=torch.float64, requires_grad=True)
    old, a = torch.tensor([-1.5], dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    loss, _ = ppo_loss(log_prob, old, a, clip_range)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    return float(loss.item()), float(gradient.item())


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),  # at the start of a round: the plain policy gradient, −A·ratio
        (1.0, -2.0, 2.0, 2.0),
        (1.1, 2.0, -2.2, -2.2),  # inside the range
        (0.9, -2.0, 1.8, 1.8),
        (1.5, 2.0, -2.4, 0.0),  # better than allowed: clipped at 1.2, no further push
        (0.5, -2.0, 1.6, 0.0),  # less likely than allowed: clipped at 0.8
        (0.5, 2.0, -1.0, -1.0),  # moved the wrong way: never clipped
        (1.5, -2.0, 3.0, 3.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_every_case_of_the_clip(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    found = loss_and_gradient(ratio, advantage, 0.2)
    assert found == (pytest.approx(loss, abs=1e-9), pytest.approx(gradient, abs=1e-9))


@settings(max_examples=100, deadline=None)
@given(ratio=st.floats(0.2, 5.0), advantage=st.floats(-5, 5), clip_range=st.floats(1e-4, 0.5))
def test_the_loss_is_pessimistic(ratio: float, advantage: float, clip_range: float) -> None:
    loss, _ = loss_and_gradient(ratio, advantage, clip_range)
    assert loss >= -advantage * ratio - 1e-9
    assert loss >= -advantage * min(max(ratio, 1 - clip_range), 1 + clip_range) - 1e-9


def test_statistics() -> None:
    log_probs = torch.tensor([0.0, math.log(1.5), math.log(0.9)], requires_grad=True)
    _, stats = ppo_loss(log_probs, torch.zeros(3), torch.ones(3), 0.2)
    torch.testing.assert_close(stats.ratio, torch.tensor([1.0, 1.5, 0.9]))
    torch.testing.assert_close(stats.kl, 0.5 * torch.tensor([0.0, math.log(1.5) ** 2, math.log(0.9) ** 2]))
    assert stats.clipped.tolist() == [False, True, False]
    assert not stats.ratio.requires_grad
    assert not stats.kl.requires_grad
