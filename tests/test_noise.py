"""Initial noise: exact shares of the mixture, unit variance, the rules for thin rounds, and files that repeat."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.config import NoiseConfig
from hero.memory import Memory
from hero.noise import FeedbackNoise, InitialNoise, SharedNoise, StandardNoise, fresh_noise, make_noise, perturb
from hero.registry import FeedbackNoiseSettings, SharedNoiseSettings
from hero.seeding import generator, normal
from hero.types import Feedback, Labelled, Verdict, image_id

SHAPE = (4, 8, 8)
GOOD, BAD = Verdict.GOOD, Verdict.BAD


def noises(n: int, round_: int = 1) -> torch.Tensor:
    return fresh_noise(n, SHAPE, seed=99, round_=round_)


def ids(n: int, round_: int = 1) -> list[str]:
    return [image_id(round_, i) for i in range(n)]


def nearest(draws: torch.Tensor, centres: torch.Tensor, epsilon: float = 0.1) -> list[int]:
    """Which of `centres` each draw was perturbed from; every draw must be near exactly one."""
    weight = math.sqrt(1 - epsilon**2)
    distance = (draws.flatten(1)[:, None] - weight * centres.flatten(1)[None]).square().mean(2)
    assert bool(((distance < 4 * epsilon**2).sum(1) == 1).all())
    return distance.argmin(1).tolist()


class Fed(FeedbackNoise):
    """With a memory of its own, which is told of rounds as a run would be."""

    def learn(self, drawn: torch.Tensor, names: list[str], prompts: list[str], feedback: Feedback) -> None:
        index = torch.tensor([self.prompts.index(prompt) for prompt in prompts])
        labelled = Labelled(1, tuple(names), index, torch.zeros_like(drawn), feedback, drawn)
        self.memory = getattr(self, "memory", Memory())
        self.memory.update_best(labelled)
        self.memory.update_good(labelled)
        self.refit(self.memory)


def fitted(n: int = 6, best: int = 2, good: tuple[int, ...] = (2, 3, 5), share: float = 0.5) -> Fed:
    noise = Fed(["a"], FeedbackNoiseSettings(best_share=share))
    verdicts = {i: GOOD if k in good else BAD for k, i in enumerate(ids(n))}
    noise.learn(noises(n), ids(n), ["a"] * n, Feedback(verdicts, best=ids(n)[best]))
    return noise


@settings(max_examples=40, deadline=None)
@given(epsilon=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_perturbing_preserves_the_variance(epsilon: float, seed: int) -> None:
    z, xi = (normal((20_000,), generator(seed, stage)) for stage in ("z", "xi"))
    drawn = perturb(z, xi, epsilon)
    assert abs(drawn.var().item() - 1) < 0.06
    correlation = float(torch.corrcoef(torch.stack([z, drawn]))[0, 1])
    assert abs(correlation - math.sqrt(1 - epsilon**2)) < 0.04


def test_perturbing_worked_by_hand() -> None:
    assert perturb(torch.tensor(2.0), torch.tensor(3.0), 0.6).item() == pytest.approx(0.8 * 2 + 0.6 * 3)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), n=st.integers(1, 40), seed=st.integers(0, 1000))
def test_exactly_the_share_starts_near_the_best(share: float, n: int, seed: int) -> None:
    noise = fitted(share=share)
    draws = noise.sample(["a"] * n, SHAPE, seed=seed, round_=2)
    chosen = nearest(draws, noises(6))
    assert chosen.count(2) == math.floor(share * n)
    assert set(chosen) <= {2, 3, 5}


def test_all_good_images_are_drawn_from() -> None:
    draws = fitted().sample(["a"] * 64, SHAPE, seed=0, round_=2)
    chosen = nearest(draws, noises(6))
    assert chosen.count(2) == 32
    assert min(chosen.count(3), chosen.count(5)) >= 8


@pytest.mark.parametrize(
    ("noise", "distinct"),
    [(StandardNoise(), 9), (fitted(), 9), (SharedNoise(), 2)],
    ids=["standard", "feedback", "shared"],
)
def test_a_draw_is_a_function_of_seed_round_and_index(noise: InitialNoise, distinct: int) -> None:
    few = noise.sample(["a"] * 5, SHAPE, seed=3, round_=2)
    torch.randn(7)  # the global generator plays no part
    many = noise.sample(["a"] * 9, SHAPE, seed=3, round_=2)
    assert torch.equal(many[:5], few)
    assert not torch.equal(noise.sample(["a"] * 5, SHAPE, seed=4, round_=2), few)
    assert not torch.equal(noise.sample(["a"] * 5, SHAPE, seed=3, round_=3), few)
    assert not torch.equal(noise.sample(["a"] * 5, SHAPE, seed=3, round_=2, stage="other"), few)
    assert len({tuple(draw.flatten().tolist()) for draw in many}) == distinct


def groups_of(draws: torch.Tensor) -> list[int]:
    """For each draw the first one that is equal to it."""
    return [next(k for k, other in enumerate(draws) if torch.equal(draw, other)) for draw in draws]


def test_shared_noise_is_one_draw_for_each_group_of_a_prompt() -> None:
    noise = SharedNoise((), SharedNoiseSettings(group_size=3))
    alone = noise.sample(["a"] * 8, SHAPE, seed=3, round_=2)
    assert groups_of(alone) == [0, 0, 0, 3, 3, 3, 6, 6]  # the last group is smaller
    in_turn = noise.sample(["a", "b"] * 4, SHAPE, seed=3, round_=2)
    assert groups_of(in_turn) == [0, 1, 0, 1, 0, 1, 6, 7]
    # The noise of a group is the one that its first image has by itself, and nothing else is drawn.
    fresh = StandardNoise().sample(["a"] * 8, SHAPE, seed=3, round_=2)
    assert torch.equal(alone, fresh[groups_of(alone)])
    assert torch.equal(in_turn, fresh[groups_of(in_turn)])
    assert groups_of(SharedNoise().sample(["a"] * 15, SHAPE, seed=0, round_=1)) == [0] * 7 + [7] * 7 + [14]
    assert not noise.fitted
    assert not noise.knows(["a"])


def test_without_a_best_it_is_standard_noise() -> None:
    fresh = StandardNoise().sample(["a"] * 4, SHAPE, seed=0, round_=2)
    noise = Fed(["a", "b"])
    assert not noise.fitted
    assert torch.equal(noise.sample(["a"] * 4, SHAPE, seed=0, round_=2), fresh)
    # Good images, but none named best: still fresh.
    noise.learn(noises(2), ids(2), ["a"] * 2, Feedback(dict.fromkeys(ids(2), GOOD)))
    assert torch.equal(noise.sample(["a"] * 4, SHAPE, seed=0, round_=2), fresh)
    # A best of another prompt changes nothing for this one.
    noise.learn(noises(2), ids(2), ["b", "b"], Feedback({ids(2)[0]: GOOD}, best=ids(2)[0]))
    assert torch.equal(noise.sample(["a"] * 4, SHAPE, seed=0, round_=2), fresh)
    assert noise.fitted
    assert noise.knows(["b"])
    assert not noise.knows(["a", "b"])


def test_where_the_noise_of_the_best_is_not_known_the_other_good_images_are_drawn_from(tmp_path: Path) -> None:
    """The best is an imported image and stays the best; the run's own good images have noises."""
    noise, six, imported = Fed(["a"]), ids(6), image_id(0, 0)
    noise.memory = Memory()
    noise.memory.update_best(
        Labelled(0, (imported,), torch.tensor([0]), torch.zeros(1, *SHAPE), Feedback({}, imported))
    )
    noise.refit(noise.memory)
    fresh = StandardNoise().sample(["a"] * 4, SHAPE, seed=0, round_=1)
    assert not noise.fitted
    assert torch.equal(noise.sample(["a"] * 4, SHAPE, seed=0, round_=1), fresh)
    noise.learn(noises(6), six, ["a"] * 6, Feedback({six[1]: GOOD, six[4]: GOOD, six[5]: BAD}, best=imported))
    assert noise.fitted
    assert noise.knows(["a"])
    draws = noise.sample(["a"] * 16, SHAPE, seed=0, round_=2)
    assert set(nearest(draws, noises(6))) == {1, 4}
    noise.save(tmp_path / "noise")
    assert torch.equal(FeedbackNoise.load(tmp_path / "noise").sample(["a"] * 16, SHAPE, seed=0, round_=2), draws)


def test_a_best_without_a_noise_does_not_keep_that_of_the_one_before() -> None:
    memory, first, imported = Memory(), ids(1)[0], image_id(0, 0)
    one = torch.tensor([0])
    memory.update_best(Labelled(1, (first,), one, torch.zeros(1, *SHAPE), Feedback({first: GOOD}, first), noises(1)))
    assert memory.best_noise.keys() == {0}
    memory.update_best(Labelled(0, (imported,), one, torch.zeros(1, *SHAPE), Feedback({}, imported)))
    assert memory.best_noise == {}


def test_with_no_other_good_image_yet_all_start_near_the_best() -> None:
    draws = fitted(good=(2,)).sample(["a"] * 6, SHAPE, seed=0, round_=2)
    assert nearest(draws, noises(6)) == [2] * 6


def test_a_round_without_good_images_keeps_the_last_good_ones() -> None:
    noise = fitted()
    noise.learn(noises(6, 2), ids(6, 2), ["a"] * 6, Feedback(dict.fromkeys(ids(6, 2), BAD), best=ids(6)[2]))
    assert set(nearest(noise.sample(["a"] * 32, SHAPE, seed=0, round_=3), noises(6))) == {2, 3, 5}


def test_a_new_best_replaces_the_old_and_the_good_are_those_of_the_last_round() -> None:
    noise = fitted()
    second = ids(6, 2)
    noise.learn(noises(6, 2), second, ["a"] * 6, Feedback({second[4]: GOOD, second[0]: GOOD}, best=second[4]))
    draws = noise.sample(["a"] * 8, SHAPE, seed=0, round_=3)
    assert sorted(nearest(draws, noises(6, 2))) == [0] * 4 + [4] * 4


def test_a_best_kept_from_before_stays_and_every_good_image_is_another_one() -> None:
    noise = fitted()
    second = ids(6, 2)
    noise.learn(noises(6, 2), second, ["a"] * 6, Feedback({second[4]: GOOD}, best=ids(6)[2]))
    draws = noise.sample(["a"] * 8, SHAPE, seed=0, round_=3)
    centres = torch.stack([noises(6)[2], noises(6, 2)[4]])
    assert sorted(nearest(draws, centres)) == [0] * 4 + [1] * 4


def test_prompts_are_kept_apart() -> None:
    prompts = ["a", "b"] * 3
    noise = Fed(["a", "b"])
    six = ids(6)
    noise.learn(noises(6), six, prompts, Feedback(dict.fromkeys(six, GOOD), best=[six[0], six[3]]))
    draws = noise.sample(["a", "a", "b", "b", "b", "a"], SHAPE, seed=0, round_=2)
    chosen = nearest(draws, noises(6))
    assert {chosen[k] for k in (0, 1, 5)} <= {0, 2, 4}
    assert {chosen[k] for k in (2, 3, 4)} <= {1, 3, 5}
    assert [chosen[k] for k in (0, 1, 5)].count(0) == 1  # floor(0.5 · 3) of each prompt
    assert [chosen[k] for k in (2, 3, 4)].count(3) == 1


def test_the_state_and_the_file_give_the_same_draws(tmp_path: Path) -> None:
    noise = fitted(share=0.3)
    expected = noise.sample(["a"] * 8, SHAPE, seed=0, round_=2)
    stored = Memory()
    stored.load(noise.memory.tensors(), noise.memory.best_id)
    copy = FeedbackNoise(["a"], FeedbackNoiseSettings(best_share=0.3))
    copy.refit(stored)
    assert torch.equal(copy.sample(["a"] * 8, SHAPE, seed=0, round_=2), expected)
    noise.save(tmp_path / "noise.safetensors")
    loaded = FeedbackNoise.load(tmp_path / "noise.safetensors")
    assert (loaded.prompts, loaded.settings) == (("a",), FeedbackNoiseSettings(best_share=0.3, epsilon=0.1))
    assert torch.equal(loaded.sample(["a"] * 8, SHAPE, seed=0, round_=2), expected)


def test_equal_distributions_give_equal_files(tmp_path: Path) -> None:
    files = set()
    for k in range(20):
        fitted().save(tmp_path / str(k))
        files.add((tmp_path / str(k)).read_bytes())
    assert len(files) == 1


def test_the_configuration_names_the_distribution() -> None:
    assert isinstance(make_noise(NoiseConfig(kind="standard"), ["a"]), StandardNoise)
    noise = make_noise(NoiseConfig.model_validate({"feedback": {"best_share": 0.25, "epsilon": 0.2}}), ["a"])
    assert isinstance(noise, FeedbackNoise)
    assert noise.settings == FeedbackNoiseSettings(best_share=0.25, epsilon=0.2)
