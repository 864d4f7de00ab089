"""Rewards and advantages on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.config import RepresentationConfig, RewardConfig
from hero.memory import Memory
from hero.reward.advantages import advantages, compute_rewards, label_reward, score_reward, similarity
from hero.reward.representation import Representation
from hero.types import Feedback, image_id

IDS = [image_id(1, i) for i in range(6)]
NAN = float("nan")


def normalised(rewards: list[float], prompts: list[int] | None = None, clip: float = 5.0) -> list[float]:
    index = torch.tensor(prompts or [0] * len(rewards))
    return advantages(torch.tensor(rewards, dtype=torch.float32), index, clip=clip, min_group=4).tolist()


def test_similarity_to_one_image() -> None:
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]])
    found = similarity(embeddings, torch.tensor([[5.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.0, (1 + math.sqrt(0.5)) / 2]))


def test_similarity_to_several_images_is_the_mean() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    found = similarity(embeddings, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([0.75, (1 + math.sqrt(0.5)) / 2]))


def test_labels_and_scores_leave_out_what_was_not_said() -> None:
    labels = label_reward(IDS[:3], Feedback({IDS[0]: "good", IDS[2]: "bad"}))
    torch.testing.assert_close(labels, torch.tensor([1.0, NAN, 0.0]), equal_nan=True)
    scores = score_reward(IDS[:3], Feedback(scores={IDS[1]: -2.5}))
    torch.testing.assert_close(scores, torch.tensor([NAN, -2.5, NAN]), equal_nan=True)


def test_advantages_worked_by_hand() -> None:
    # mean 1, population std √((1 + 1 + 0 + 0)/4) = √½
    assert normalised([0.0, 2.0, 1.0, 1.0]) == pytest.approx([-math.sqrt(2), math.sqrt(2), 0, 0], abs=1e-6)


def test_prompts_with_enough_images_are_normalised_apart() -> None:
    found = normalised([0, 1, 0, 1, 10, 30, 10, 30], [0, 0, 0, 0, 1, 1, 1, 1])
    assert found == pytest.approx([-1, 1, -1, 1] * 2, abs=1e-6)


def test_small_prompts_are_normalised_over_the_round() -> None:
    rewards, prompts = [0.0, 1.0, 0.0, 1.0, 4.0, 6.0], [0, 0, 0, 0, 1, 1]
    found = normalised(rewards, prompts)
    whole = torch.tensor(rewards)
    mean, std = whole.mean().item(), whole.std(correction=0).item()
    assert found == pytest.approx([-1, 1, -1, 1, (4 - mean) / std, (6 - mean) / std], abs=1e-6)


def test_unrewarded_images_get_nothing_and_count_for_nothing() -> None:
    assert normalised([0.0, NAN, 1.0, 0.0, 1.0, NAN]) == pytest.approx([-1, 0, 1, -1, 1, 0], abs=1e-6)
    # Three rewarded images of prompt 0 are too few for statistics of their own.
    found = normalised([0.0, 0.0, 1.0, NAN, 1.0], [0, 0, 0, 0, 1])
    assert found == pytest.approx([-1, -1, 1, 0, 1], abs=1e-6)
    assert normalised([NAN, NAN]) == [0, 0]


def test_advantages_are_clipped() -> None:
    found = normalised([0.0] * 99 + [1.0])
    assert found[-1] == 5
    assert normalised([0.0] * 99 + [1.0], clip=2.0)[-1] == 2


@settings(max_examples=100, deadline=None)
@given(value=st.floats(-1e6, 1e6, width=32), n=st.integers(1, 70))
def test_equal_rewards_have_no_advantage(value: float, n: int) -> None:
    assert normalised([value] * n) == [0] * n


@settings(max_examples=50, deadline=None)
@given(rewards=st.lists(st.floats(0, 1, width=16), min_size=4, max_size=30))
def test_advantages_have_mean_zero_and_keep_the_order(rewards: list[float]) -> None:
    found = normalised(rewards, clip=100.0)
    assert sum(found) == pytest.approx(0, abs=1e-3)
    for (r, a), (s, b) in zip(
        zip(rewards, found, strict=True), list(zip(rewards, found, strict=True))[1:], strict=False
    ):
        assert (r < s) <= (a <= b)


@pytest.fixture(scope="module")
def representation() -> Representation:
    config = RepresentationConfig(width=16, epochs=1, batch_size=4)
    return Representation((4, 8, 8), config, seed=0, device=torch.device("cpu"))


LATENTS = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([0, 0, 0, 1, 1, 1])


def rewards_of(kind: str, representation: Representation, feedback: Feedback, memory: Memory) -> torch.Tensor:
    config = RewardConfig.model_validate({"kind": kind})
    return compute_rewards(config, representation, LATENTS, IDS, INDEX, feedback, memory).rewards


def test_the_best_is_most_similar_to_itself_and_each_prompt_has_its_own(representation: Representation) -> None:
    memory = Memory({0: IDS[1], 1: IDS[5]}, {0: LATENTS[1], 1: LATENTS[5]}, {})
    found = rewards_of("similarity-to-best", representation, Feedback(), memory)
    assert found[[1, 5]].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert found.isfinite().all()
    e = representation.embed(LATENTS)
    torch.testing.assert_close(found[:3], similarity(e[:3], e[1:2]))
    torch.testing.assert_close(found[3:], similarity(e[3:], e[5:6]))


def test_a_prompt_without_a_best_has_no_reward(representation: Representation) -> None:
    memory = Memory({1: IDS[5]}, {1: LATENTS[5]}, {})
    found = rewards_of("similarity-to-best", representation, Feedback(), memory)
    assert found.isnan().tolist() == [True] * 3 + [False] * 3


def test_similarity_to_good_counts_the_best_once(representation: Representation) -> None:
    feedback = Feedback(dict.fromkeys(IDS[:2] + IDS[3:4], "good"), best=[IDS[0], IDS[3]])
    memory = Memory({0: IDS[0], 1: IDS[3]}, {0: LATENTS[0], 1: LATENTS[3]}, {})
    found = rewards_of("similarity-to-good", representation, feedback, memory)
    e = representation.embed(LATENTS)
    torch.testing.assert_close(found[:3], similarity(e[:3], e[:2]))
    torch.testing.assert_close(found[3:], similarity(e[3:], e[3:4]))
