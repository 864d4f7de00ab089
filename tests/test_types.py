"""What flows: feedback that does not fit its batch is refused before anything is learnt or stored from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from hero.errors import FeedbackError
from hero.types import BestImage, Feedback, ImageBatch, RoundStats, Trajectory, Verdict, image_id

PICTURE = Image.new("RGB", (8, 8))
IDS = tuple(image_id(2, i) for i in range(4))
KEPT = BestImage(image_id(1, 3), PICTURE, "a cat")
BATCH = ImageBatch(2, IDS, (PICTURE,) * 4, ("a cat", "a dog", "a cat", "a dog"), (KEPT,))
GOOD, BAD = Verdict.GOOD, Verdict.BAD


def test_ids_are_stable_and_sort_by_round_and_index() -> None:
    assert image_id(3, 12) == "r0003-i0012"
    ids = [image_id(r, i) for r in (1, 2, 10) for i in (0, 9, 10, 63)]
    assert ids == sorted(ids)


def test_the_best_is_held_as_a_tuple_however_it_is_given() -> None:
    assert Feedback().best == ()
    assert Feedback(best=None).best == ()
    assert Feedback(best="r0001-i0000").best == ("r0001-i0000",)
    assert Feedback(best=["a", "b"]).best == ("a", "b")


def test_images_left_out_are_unlabelled_and_not_bad() -> None:
    feedback = Feedback({IDS[1]: "good", IDS[0]: BAD})
    assert feedback.verdicts == {IDS[1]: GOOD, IDS[0]: BAD}
    assert (feedback.good, feedback.bad) == ((IDS[1],), (IDS[0],))
    feedback.check(BATCH)


def test_the_short_form_makes_everything_else_bad() -> None:
    feedback = Feedback.from_good(BATCH, [IDS[2], IDS[3]], IDS[2])
    assert feedback.good == (IDS[2], IDS[3])
    assert feedback.bad == (IDS[0], IDS[1])
    assert feedback.best == (IDS[2],)
    assert Feedback.from_good(BATCH, IDS).bad == ()
    assert Feedback.from_good(BATCH, []).good == ()


@pytest.mark.parametrize(
    "fits",
    [
        Feedback(),
        Feedback.from_good(BATCH, []),
        Feedback.from_good(BATCH, IDS, [IDS[0], IDS[1]]),
        Feedback.from_good(BATCH, [], KEPT.id),
        Feedback.from_good(BATCH, [IDS[1]], [KEPT.id, IDS[1]]),
        Feedback(scores={IDS[0]: -3}, pairs=[(IDS[0], IDS[2])]),
    ],
)
def test_thin_and_rich_answers_are_legal(fits: Feedback) -> None:
    fits.check(BATCH)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Feedback({"r0001-i0000": GOOD}), "not in this batch: r0001-i0000"),
        (Feedback({IDS[0]: BAD}, best=IDS[0]), "not marked good"),
        (Feedback(best=IDS[0]), "not marked good"),
        (Feedback(best="r0001-i0000"), "best image id not in this batch"),
        (Feedback.from_good(BATCH, IDS, [IDS[0], IDS[2]]), "two best images for the prompt 'a cat'"),
        (Feedback.from_good(BATCH, IDS, [IDS[0], KEPT.id]), "two best images"),
        (Feedback.from_good(BATCH, IDS, [IDS[0], IDS[0]]), "two best images"),
        (Feedback(scores={"x": 1.0}), "scored image id not in this batch"),
        (Feedback(scores={IDS[0]: float("nan")}), "finite"),
        (Feedback(scores={IDS[0]: float("-inf")}), "finite"),
        (Feedback(pairs=[(IDS[0], "x")]), "compared image id not in this batch"),
        (Feedback(pairs=[(IDS[0], IDS[1])]), "two images of one prompt"),
        (Feedback(pairs=[(IDS[0], IDS[0])]), "two images of one prompt"),
    ],
)
def test_an_answer_to_something_else_is_refused(wrong: Feedback, said: str) -> None:
    with pytest.raises(FeedbackError, match=said) as refusal:
        wrong.check(BATCH)
    assert "round 2" in str(refusal.value)


def test_unknown_verdicts_and_repeated_ids_are_refused() -> None:
    with pytest.raises(FeedbackError, match="'good' or 'bad'"):
        Feedback({IDS[0]: "great"})
    with pytest.raises(FeedbackError, match="given twice: r0002-i0000"):
        Feedback.from_good(BATCH, [IDS[0], IDS[0]])
    with pytest.raises(FeedbackError, match="good image id not in this batch: 7"):
        Feedback.from_good(BATCH, ["7"])


def test_a_batch_is_its_images_with_ids_and_prompts() -> None:
    assert len(BATCH) == 4
    assert [(i, prompt) for i, _, prompt in BATCH] == list(zip(IDS, BATCH.prompts, strict=True))


def test_a_trajectory_begins_with_the_noise_and_ends_with_the_image() -> None:
    latents = torch.arange(2 * 3 * 4.0).view(2, 3, 1, 2, 2)
    trajectory = Trajectory(latents, torch.zeros(2, 2), torch.ones(2, dtype=torch.bool), torch.zeros(2).long())
    assert len(trajectory) == 2
    assert torch.equal(trajectory.initial_noise, latents[:, 0])
    assert torch.equal(trajectory.final_latents, latents[:, 2])


def test_round_figures_survive_the_round_trip() -> None:
    stats = RoundStats(
        1, 6, 6, 2, 4, ("r0001-i0002",), 0.1 + 0.2, 1 / 3, 0, None, None, {"kl": 0.1}, 0.5, "", 1, 2, 3, 4
    )  # fmt: skip
    assert RoundStats.from_dict(stats.to_dict()) == stats
    assert RoundStats.from_dict({**stats.to_dict(), "of_a_later_version": 1}) == stats
    old = {**stats.to_dict(), "kl": 0.1, "triplet_loss": None}
    assert RoundStats.from_dict({k: v for k, v in old.items() if k not in ("figures", "seconds_judging")}) == replace(
        stats, seconds_judging=0.0
    )
    assert set(RoundStats.WALL_CLOCK) < set(stats.to_dict())
