"""Rewards and advantages on numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import reward_of
from hero.memory import Memory
from hero.reward.advantages import advantages, auc, preference_pairs
from hero.reward.similarity import Similarity, similarity
from hero.types import Feedback, Labelled, image_id

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
    said = Feedback({IDS[0]: "good", IDS[2]: "bad"}, scores={IDS[1]: -2.5})
    few = Labelled(1, tuple(IDS[:3]), torch.zeros(3, dtype=torch.int64), LATENTS[:3], said)
    labels = reward_of("label").rewards(few)
    torch.testing.assert_close(labels, torch.tensor([1.0, NAN, 0.0]), equal_nan=True)
    scores = reward_of("score").rewards(few)
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


def recentred(rewards: list[float], prompts: list[int], clip: float) -> list[float]:
    found = advantages(torch.tensor(rewards), torch.tensor(prompts), clip=clip, min_group=4, recentre=True)
    return found.tolist()


def test_clipped_advantages_may_be_centred_again() -> None:
    # One good image in ten: mean 0.1, std 0.3, so that 3 is clipped to 0.5 and nine times −1/3 are left: mean −0.25.
    assert normalised([1.0] + [0.0] * 9, clip=0.5) == pytest.approx([0.5] + [-1 / 3] * 9, abs=1e-6)
    found = recentred([1.0] + [0.0] * 9, [0] * 10, clip=0.5)
    assert found == pytest.approx([0.75] + [-1 / 12] * 9, abs=1e-6)
    # What is not clipped is centred anyway, and images without a reward count for nothing.
    assert recentred([0.0, NAN, 1.0, 0.0, 1.0], [0] * 5, clip=5.0) == pytest.approx([-1, 0, 1, -1, 1], abs=1e-6)


def test_each_prompt_is_centred_by_itself_where_it_was_normalised_by_itself() -> None:
    # Prompt 1 has an image alone: it is normalised, and centred, with the whole round.
    rewards, prompts = [1.0] + [0.0] * 9 + [1.0], [0] * 10 + [1]
    found = recentred(rewards, prompts, clip=0.5)
    assert found[:10] == pytest.approx([0.75] + [-1 / 12] * 9, abs=1e-6)
    low = -(2 / 11) / math.sqrt((2 / 11) * (9 / 11))
    assert found[10] == pytest.approx(0.5 - (2 * 0.5 + 9 * low) / 11, abs=1e-6)


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


LATENTS = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
INDEX = torch.tensor([0, 0, 0, 1, 1, 1])


def labelled(feedback: Feedback) -> Labelled:
    return Labelled(1, tuple(IDS), INDEX, LATENTS, feedback)


def similar(memory: Memory, feedback: Feedback, reference: str = "best") -> tuple[Similarity, torch.Tensor]:
    reward = reward_of("similarity", memory, width=16, epochs=1, batch_size=4, reference=reference)
    assert isinstance(reward, Similarity)
    return reward, reward.rewards(labelled(feedback))


def remembering(*rows: int) -> Memory:
    """Bests, as rows of this round."""
    return Memory({int(INDEX[k]): IDS[k] for k in rows}, {int(INDEX[k]): LATENTS[k] for k in rows})


def test_the_best_is_most_similar_to_itself_and_each_prompt_has_its_own() -> None:
    reward, found = similar(remembering(1, 5), Feedback())
    assert found[[1, 5]].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert found.isfinite().all()
    e = reward.representation.embed(LATENTS)
    torch.testing.assert_close(found[:3], similarity(e[:3], e[1:2]))
    torch.testing.assert_close(found[3:], similarity(e[3:], e[5:6]))


def test_a_prompt_without_a_best_has_no_reward() -> None:
    _, found = similar(remembering(5), Feedback())
    assert found.isnan().tolist() == [True] * 3 + [False] * 3


def test_similarity_to_good_counts_the_best_once() -> None:
    feedback = Feedback(dict.fromkeys(IDS[:2] + IDS[3:4], "good"), best=[IDS[0], IDS[3]])
    reward, found = similar(remembering(0, 3), feedback, "good")
    e = reward.representation.embed(LATENTS)
    torch.testing.assert_close(found[:3], similarity(e[:3], e[:2]))
    torch.testing.assert_close(found[3:], similarity(e[3:], e[3:4]))
    # Of images that it was not told of it knows the best alone.
    torch.testing.assert_close(reward.score(LATENTS, INDEX).mean[:3], similarity(e[:3], e[:1]))


def test_pairs_are_those_that_were_given_or_every_good_image_with_every_bad_one_of_its_prompt() -> None:
    said = Feedback({IDS[0]: "good", IDS[1]: "good", IDS[2]: "bad", IDS[3]: "bad", IDS[5]: "good"})
    assert preference_pairs(labelled(said)) == ((0, 2), (1, 2), (5, 3))
    assert preference_pairs(labelled(Feedback(pairs=[(IDS[2], IDS[1])]))) == ((2, 1),)
    assert preference_pairs(labelled(Feedback({IDS[0]: "good", IDS[3]: "bad"}))) == ()


def test_the_area_under_the_curve_counts_pairs_within_prompts_and_half_for_ties() -> None:
    said = Feedback({IDS[0]: "good", IDS[1]: "bad", IDS[2]: "bad", IDS[3]: "good", IDS[4]: "bad"})
    # Prompt 0: above one of two, equal to the other; prompt 1: below; scores are never compared across prompts.
    assert auc(torch.tensor([2.0, 1.0, 2.0, 0.0, 9.0, 5.0]), labelled(said)) == pytest.approx((1 + 0.5 + 0) / 3)
    assert auc(torch.tensor([2.0, 1.0, NAN, NAN, 9.0, 5.0]), labelled(said)) == 1
    assert auc(torch.full((6,), NAN), labelled(said)) is None
    assert auc(torch.zeros(6), labelled(Feedback({IDS[0]: "good"}))) is None
