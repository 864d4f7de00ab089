"""Random draws are functions of (seed, stage, round, index), and of nothing else."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.seeding import derive_seed, generator, normal

keys = st.tuples(
    st.integers(0, 2**40), st.sampled_from(["noise", "step-noise"]), st.integers(0, 99), st.integers(0, 99)
)


@settings(max_examples=50, deadline=None)
@given(key=keys)
def test_equal_arguments_draw_equal_numbers(key: tuple[int, str, int, int]) -> None:
    assert torch.equal(normal((4, 3), generator(*key)), normal((4, 3), generator(*key)))


@settings(max_examples=100, deadline=None)
@given(one=keys, other=keys)
def test_other_arguments_draw_other_numbers(one: tuple[int, str, int, int], other: tuple[int, str, int, int]) -> None:
    same = torch.equal(normal((4, 3), generator(*one)), normal((4, 3), generator(*other)))
    assert same == (one == other)


def test_a_whole_run_has_no_two_equal_seeds() -> None:
    stages = ("noise", "step-noise", "timesteps")
    # The low half alone seeds torch's CPU generator, so it must differ too.
    low = {derive_seed(0, s, r, i) % 2**32 for s in stages for r in range(1, 9) for i in range(64)}
    assert len(low) == len(stages) * 8 * 64


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    drawn = normal((8,), generator(3, "noise", 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(normal((8,), generator(3, "noise", 1, 2)), drawn)


def test_draws_are_standard_normal_and_uncorrelated_between_images() -> None:
    draws = torch.stack([normal((4096,), generator(0, "noise", 1, i)) for i in range(16)])
    assert draws.dtype == torch.float32
    assert abs(draws.mean().item()) < 0.02
    assert abs(draws.std().item() - 1) < 0.02
    correlation = torch.corrcoef(draws) - torch.eye(16)
    assert correlation.abs().max().item() < 0.08  # 5 standard errors of 1/√4096
