"""Random draws are functions of (seed, stage, round, index), and of nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hero
from hero.seeding import Stage, derive_seed, generator, normal

keys = st.tuples(
    st.integers(0, 2**40), st.sampled_from(["noise", "step-noise"]), st.integers(0, 99), st.integers(0, 99)
)

PACKAGE = Path(hero.__file__).parent


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


# ---------------------------------------------------------------------------------------------- stages

SHARED = {
    Stage.EVALUATION_NOISE: {"hero.evaluation.measure"},
    Stage.EVALUATION_STEP_NOISE: {"hero.evaluation.measure"},
}
"""Stages with more than one place of use, and why that is right: benchmarks measure on evaluation's own `HELD_OUT`."""


def stages_by_module() -> dict[str, set[Stage]]:
    used: dict[str, set[Stage]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Stage":
                used.setdefault(module, set()).add(Stage[node.attr])
    return used


def test_each_stage_has_a_name_of_its_own_and_one_use() -> None:
    assert len({str(stage) for stage in Stage}) == len(Stage)
    used = stages_by_module()
    for stage in Stage:
        modules = {module for module, stages in used.items() if stage in stages}
        assert len(modules) == 1 or modules == SHARED.get(stage), f"{stage}: {modules}"


def test_nothing_is_drawn_from_a_stage_that_is_not_in_the_enumeration() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                second = node.args[1:2] if name in ("generator", "derive_seed") else []
                given = [*second, *(k.value for k in node.keywords if k.arg in ("stage", "stages"))]
                wrong += [f"{path.name}: {ast.unparse(node)}" for v in given if isinstance(v, ast.Constant)]
    assert wrong == []


def test_initial_and_step_noises_never_share_a_stage() -> None:
    """Equal initial and step noises are correlated, and such noises alone raise success."""
    initial = {stage for stage in Stage if stage.endswith("noise") and "step" not in stage and stage[0] != "f"}
    steps = {stage for stage in Stage if stage.endswith("step-noise")}
    assert initial.isdisjoint(steps)
    assert all(str(stage).replace("step-", "") in set(map(str, initial)) for stage in steps)
