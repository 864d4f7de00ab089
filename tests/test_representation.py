"""The representation: the triplet loss by hand, its triplets for every kind of round, and that it learns."""

from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from hero.errors import TrainingError
from hero.memory import Memory
from hero.registry import SimilaritySettings
from hero.reward.representation import (
    EmbeddingNetwork,
    ProjectionHead,
    Representation,
    TripletGroup,
    cosine_distance,
    embedding_channels,
    triplet_groups,
    triplet_loss,
)
from hero.reward.similarity import Similarity, similarity
from hero.types import Feedback, Labelled, image_id

SHAPE = (4, 8, 8)
IDS = [image_id(2, i) for i in range(6)]
INDEX = torch.tensor([0, 1] * 3)
LATENTS = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
EARLIER = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))


def make(seed: int = 0, **settings: float) -> Representation:
    values = {"width": 32, "epochs": 60, "batch_size": 64, "learning_rate": 1e-3, **settings}
    return Representation(SHAPE, SimilaritySettings.model_validate(values), seed=seed, device=torch.device("cpu"))


def test_distance_is_half_of_one_minus_the_cosine() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    torch.testing.assert_close(cosine_distance(x, y), torch.tensor([0.0, 0.5, 1.0]))


def test_triplet_loss_by_hand() -> None:
    # d(a, p) = 0.5, d(a, n) = (1 − √½)/2 = 0.1464: loss 0.8536; with n opposite: max(0, 0.5 − 1 + 0.5) = 0.
    anchor = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    positive = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    negative = torch.tensor([[1.0, 1.0], [-1.0, 0.0]])
    first = 0.5 - (1 - math.sqrt(0.5)) / 2 + 0.5
    assert triplet_loss(anchor[:1], positive[:1], negative[:1], 0.5).item() == pytest.approx(first)
    assert triplet_loss(anchor, positive, negative, 0.5).item() == pytest.approx(first / 2)
    assert triplet_loss(anchor[1:], positive[1:], negative[1:], 0.4).item() == 0  # never negative


def test_the_networks_have_the_published_sizes() -> None:
    network, head = EmbeddingNetwork((4, 64, 64), 2048), ProjectionHead(2048)
    convolutions = [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions == [(4, 8), (8, 16), (16, 32)]
    assert (network.linear.in_features, network.linear.out_features) == (32 * 8 * 8, 2048)
    assert [m.out_features for m in head if isinstance(m, torch.nn.Linear)] == [2048, 1024, 512]


@pytest.mark.parametrize(
    ("channels", "expected"), [(4, (8, 16, 32)), (16, (32, 64, 128)), (32, (64, 128, 128)), (128, (128, 128, 128))]
)
def test_no_latent_is_squeezed_through_fewer_channels_than_it_has(
    channels: int, expected: tuple[int, int, int]
) -> None:
    network = EmbeddingNetwork((channels, 16, 16), 64)
    convolutions = [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert tuple(convolutions) == expected == embedding_channels(channels)
    assert min(convolutions) >= min(2 * channels, 128)
    head = ProjectionHead(64)
    counted = 16 * sum(p.numel() for p in (*network.linear.parameters(), *head.parameters()))
    needed = Similarity.memory_needed((channels, 16, 16), SimilaritySettings(width=64))
    assert needed == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 8, 12), (16, 4, 4), (4, 2, 3), (1, 1, 1)])
def test_latents_of_any_size_are_embedded(shape: tuple[int, int, int]) -> None:
    embeddings = EmbeddingNetwork(shape, 16)(torch.randn(2, *shape))
    assert embeddings.shape == (2, 16)
    assert (embeddings >= 0).all()


def separable(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (n, 4, 8, 8) under much noise: good ones are brighter on the left, bad ones on the right."""
    source = torch.Generator().manual_seed(seed)
    good, bad = (torch.randn(n, *SHAPE, generator=source) for _ in range(2))
    good[..., :4] += 0.7
    bad[..., 4:] += 0.7
    return good, bad


def test_it_learns_to_tell_good_from_bad_on_images_it_has_not_seen() -> None:
    good, bad = separable(24, seed=0)
    new_good, new_bad = separable(40, seed=1)
    representation = make()
    assert not representation.fitted
    untrained = separation(representation, good[0], new_good, new_bad)
    loss = representation.fit([TripletGroup(good[0], good[1:], bad)], round_=1)
    assert representation.fitted
    assert loss < 0.1
    trained = separation(representation, good[0], new_good, new_bad)
    assert trained > 0.95
    assert trained > untrained + 0.1


def separation(representation: Representation, best: torch.Tensor, good: torch.Tensor, bad: torch.Tensor) -> float:
    """The chance that a good image is more similar to the best than a bad one (area under the ROC curve)."""
    reference = representation.embed(best[None])
    r_good, r_bad = (similarity(representation.embed(x), reference) for x in (good, bad))
    return float((r_good[:, None] > r_bad[None]).float().mean())


def test_fitting_is_a_function_of_seed_round_and_state() -> None:
    good, bad = separable(6, seed=0)
    group = [TripletGroup(good[0], good[1:], bad)]
    one, two = make(epochs=3), make(epochs=3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one.fit(group, round_=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    two.fit(group, round_=1)
    assert same_state(one, two)
    one.fit(group, round_=2)
    two.fit(group, round_=3)
    assert not same_state(one, two)


def test_a_restored_representation_goes_on_bit_for_bit() -> None:
    good, bad = separable(6, seed=0)
    group = [TripletGroup(good[0], good[1:], bad)]
    one, two = make(epochs=5), make(seed=7, epochs=5)
    one.fit(group, round_=1)
    two.load_state_dict(one.state_dict())
    two.seed = one.seed
    assert two.fitted
    assert one.fit(group, round_=2) == two.fit(group, round_=2)
    assert same_state(one, two)


def same_state(one: Representation, two: Representation) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_latents_that_are_not_numbers_are_an_error() -> None:
    good, bad = separable(4, seed=0)
    bad[2, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="round 4: the triplet loss is nan"):
        make().fit([TripletGroup(good[0], good[1:], bad)], round_=4)


def test_triplets_stay_within_their_prompt() -> None:
    # Group 1's negatives are group 0's positives: mixed up, the loss could not reach 0.
    good, bad = separable(8, seed=0)
    groups = [TripletGroup(good[0], good[1:], bad[1:]), TripletGroup(bad[0], bad[1:], good[1:])]
    assert make(epochs=150).fit(groups, round_=1) < 0.1


def memory_with(best: dict[int, int], good: dict[int, torch.Tensor] | None = None) -> Memory:
    """Bests by prompt, as rows of this round."""
    return Memory({p: IDS[k] for p, k in best.items()}, {p: LATENTS[k] for p, k in best.items()}, dict(good or {}))


def groups_of(feedback: Feedback, memory: Memory) -> list[TripletGroup]:
    return triplet_groups(labelled(feedback), memory)


def labelled(feedback: Feedback) -> Labelled:
    return Labelled(1, tuple(IDS), INDEX, LATENTS, feedback)


def test_anchor_positives_and_negatives_of_a_full_round() -> None:
    feedback = Feedback({IDS[0]: "good", IDS[2]: "good", IDS[4]: "bad", IDS[1]: "good", IDS[3]: "bad"}, best=IDS[0])
    (group,) = groups_of(feedback, memory_with({0: 0}))
    assert torch.equal(group.anchor, LATENTS[0])
    assert torch.equal(group.positives, LATENTS[[2]])
    assert torch.equal(group.negatives, LATENTS[[4]])


def test_each_prompt_is_a_group_and_unlabelled_images_are_in_none() -> None:
    feedback = Feedback(
        {IDS[0]: "good", IDS[2]: "good", IDS[4]: "bad", IDS[1]: "good", IDS[3]: "good", IDS[5]: "bad"},
        best=[IDS[2], IDS[1]],
    )
    first, second = groups_of(feedback, memory_with({1: 1, 0: 2}))
    assert torch.equal(first.positives, LATENTS[[0]])
    assert torch.equal(second.positives, LATENTS[[3]])
    assert torch.equal(second.negatives, LATENTS[[5]])
    (only,) = groups_of(Feedback({IDS[0]: "good", IDS[2]: "bad"}), Memory({0: "r0001-i0007"}, {0: EARLIER[0]}, {}))
    assert torch.equal(only.anchor, EARLIER[0])  # kept from before: every good image is a positive
    assert torch.equal(only.positives, LATENTS[[0]])
    assert torch.equal(only.negatives, LATENTS[[2]])


def test_where_the_best_is_the_only_good_one_earlier_good_images_are_positives() -> None:
    feedback = Feedback({IDS[0]: "good", IDS[2]: "bad"}, best=IDS[0])
    assert groups_of(feedback, memory_with({0: 0})) == []
    (group,) = groups_of(feedback, memory_with({0: 0}, {0: EARLIER, 1: LATENTS}))
    assert torch.equal(group.positives, EARLIER)


def test_no_best_or_no_bad_image_makes_no_group() -> None:
    assert groups_of(Feedback({IDS[0]: "good", IDS[2]: "bad"}), memory_with({})) == []
    assert groups_of(Feedback(dict.fromkeys(IDS, "good"), best=IDS[0]), memory_with({0: 0}, {0: EARLIER})) == []


def test_distances_are_taken_behind_the_head_and_rewards_before_it() -> None:
    representation = make(epochs=1, batch_size=1, learning_rate=1e-12)
    good, bad = separable(2, seed=0)
    loss = representation.fit([TripletGroup(good[0], good[1:2], bad[:1])], round_=1)
    with torch.no_grad():
        a, p, n = (representation.head(representation.embed(x[None])) for x in (good[0], good[1], bad[0]))
    assert loss == pytest.approx(triplet_loss(a, p, n, 0.5).item(), abs=1e-5)
    assert representation.embed(good).shape == (2, 32)
    assert not functional.cosine_similarity(a, p).isnan()


def test_earlier_rounds_are_replayed_oldest_forgotten_first_and_survive_a_checkpoint() -> None:
    memory = memory_with({0: 0})
    first = Feedback({IDS[0]: "good", IDS[2]: "good", IDS[4]: "bad"}, best=IDS[0])
    second = Feedback({IDS[2]: "bad", IDS[4]: "good"})
    for feedback in (first, second, first):
        memory.update_good(labelled(feedback), replay_rounds=2)
    stored = safetensors.torch.load(safetensors.torch.save(memory.tensors()))
    memory, best_id = Memory(), memory.best_id
    memory.load(stored, best_id)
    (group,) = groups_of(Feedback({IDS[2]: "good"}), memory)  # no bad image of its own
    assert torch.equal(group.positives, LATENTS[[2, 4, 2]])
    assert torch.equal(group.negatives, LATENTS[[2, 4]])


def test_nothing_is_replayed_unless_asked_for() -> None:
    memory = memory_with({0: 0})
    memory.update_good(labelled(Feedback({IDS[2]: "good", IDS[4]: "bad"})))
    assert memory.replay == {}
    assert torch.equal(memory.good[0], LATENTS[[2]])
