"""The tuner: what ask and tell promise, and what each kind of thin round teaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hero.config import Config
from hero.errors import FeedbackError, RunError, TrainingError
from hero.feedback import LabelStore
from hero.noise import FeedbackNoise, StandardNoise
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch, ImageChunk, RoundStart, RoundStats

PROMPTS = ("1 hand", "a person posing")
SMALL: dict[str, Any] = {
    "sampling": {"num_steps": 3, "images_per_round": 4, "micro_batch": 4},
    "lora": {"layers": ("attention",)},
    "update": {"micro_batch": 4},
}


@pytest.fixture
def start(tiny_config: Callable[..., Config], tmp_path: Path) -> Iterator[Callable[..., Tuner]]:
    """`start(**settings)` begins a run of three small rounds in tmp_path / "run"."""
    begun: list[Tuner] = []

    def begin(name: str = "run", **given: Any) -> Tuner:
        begun.append(Tuner(tiny_config(**{"rounds": 3, **SMALL, **given}), tmp_path / name))
        return begun[-1]

    yield begin
    for tuner in begun:
        tuner.close()


def state_of(tuner: Tuner) -> dict[str, torch.Tensor]:
    """All that a tuner has learnt."""
    learner = tuner.learner
    parts = {
        "lora": learner.policy.state_dict(),
        "memory": learner.memory.tensors(),
        "reward": learner.reward.state_dict(),
        "update": learner.update.state_dict() if learner.update else {},
    }
    return {f"{name}/{key}": value.clone() for name, part in parts.items() for key, value in part.items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Which parts of the state differ."""
    keys = before.keys() | after.keys()
    differ = {k for k in keys if k not in before or k not in after or not torch.equal(before[k], after[k])}
    return {key.split("/")[0] for key in differ}


def good(batch: ImageBatch, *indexes: int, best: int | None = None) -> Feedback:
    return Feedback.from_good(batch, [batch.ids[k] for k in indexes], None if best is None else batch.ids[best])


# ---------------------------------------------------------------------------------------------- ask


def test_ask_gives_the_batch_and_keeps_it(start: Callable[..., Tuner], tmp_path: Path) -> None:
    tuner = start(prompts=PROMPTS, sampling={**SMALL["sampling"], "images_per_round": 5, "micro_batch": 2})
    chunks: list[ImageChunk] = []
    batch = tuner.ask(chunks.append)
    assert batch.ids == tuple(f"r0001-i000{k}" for k in range(5))
    assert batch.prompts == (*PROMPTS, *PROMPTS, PROMPTS[0])
    assert (batch.round, batch.best, len(batch)) == (1, (), 5)
    assert [chunk.ids for chunk in chunks] == [batch.ids[:2], batch.ids[2:4], batch.ids[4:]]
    assert {chunk.total for chunk in chunks} == {5}
    files = sorted((tmp_path / "run" / "rounds" / "0001" / "images").glob("*.png"))
    assert [file.stem for file in files] == list(batch.ids)
    assert tuner.ask() is batch
    tuner.close()
    with Tuner.resume(tmp_path / "run") as again:
        chunks.clear()
        restored = again.ask(chunks.append)
        assert (restored.ids, restored.prompts) == (batch.ids, batch.prompts)
        for ours, theirs in zip(batch.images, restored.images, strict=True):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        assert [chunk.ids for chunk in chunks] == [batch.ids]


# ---------------------------------------------------------------------------------------------- tell


def test_tell_needs_a_question_and_an_answer_to_it(start: Callable[..., Tuner], tmp_path: Path) -> None:
    tuner = start()
    with pytest.raises(RunError, match="call ask"):
        tuner.tell(Feedback())
    batch, before = tuner.ask(), state_of(tuner)
    for wrong in (Feedback({"r0009-i0000": "good"}), Feedback(best=batch.ids[0])):
        with pytest.raises(FeedbackError, match="round 1"):
            tuner.tell(wrong)
    with pytest.raises(FeedbackError, match="Feedback"):
        tuner.tell({batch.ids[0]: "good"})  # type: ignore[arg-type]
    with LabelStore(tmp_path / "run" / "feedback.db") as store:
        assert (store.count(), store.submitted_rounds()) == (0, ())
    assert changed(before, state_of(tuner)) == set()
    assert tuner.tell(good(batch, 0, 1, best=0)).round == 1


def test_what_was_told_is_stored_as_it_was_said(start: Callable[..., Tuner], tmp_path: Path) -> None:
    tuner = start()
    batch = tuner.ask()
    i = batch.ids
    feedback = Feedback({i[2]: "good", i[0]: "bad", i[1]: "good"}, i[1], {i[3]: 0.1 + 0.2}, [(i[2], i[0])])
    tuner.tell(feedback, evaluator="ada", seconds_waiting=12.5)
    with LabelStore(tmp_path / "run" / "feedback.db") as store:
        kept = store.submission(1, "ada")
        assert kept == feedback
        assert list(kept.verdicts) == [i[2], i[0], i[1]]
        assert {label.evaluator for label in store.labels()} == {"ada"}


def test_a_full_round_teaches_everything_and_publishes_it(start: Callable[..., Tuner], tmp_path: Path) -> None:
    tuner = start()
    batch, before = tuner.ask(), state_of(tuner)
    stats = tuner.tell(good(batch, 0, 1, best=1), seconds_waiting=3.0)
    assert changed(before, state_of(tuner)) == {"lora", "memory", "reward", "update"}
    assert (stats.labels, stats.images, stats.good, stats.bad, stats.best) == (4, 4, 2, 2, (batch.ids[1],))
    assert (stats.steps, stats.note, stats.success_shown, stats.seconds_waiting) == (2, "", None, 3.0)
    assert "first_ratio_deviation" in stats.figures
    assert stats.figures["first_ratio_deviation"] <= 1e-6
    assert tuner.round == 2
    assert tuner.best[0].id == batch.ids[1]
    assert np.array_equal(np.asarray(tuner.best[0].image), np.asarray(batch.images[1]))
    assert tuner.ask().best[0].id == batch.ids[1]
    run = tmp_path / "run"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1
    published = run / "lora" / "pytorch_lora_weights.safetensors"
    assert published.read_bytes() == tuner.save_lora(tmp_path / "mine").read_bytes()
    noise = FeedbackNoise.load(run / "refined_noise.safetensors")
    assert all(torch.equal(v, tuner.learner.noise.state_dict()[k]) for k, v in noise.state_dict().items())


# ---------------------------------------------------------------------------------------------- thin rounds


def fresh(tuner: Tuner, round_: int) -> torch.Tensor:
    shape = tuner.policy.latent_shape
    return StandardNoise().sample(["x"] * 4, shape, seed=tuner.config.seed, round_=round_)


def drawn_noise(tuner: Tuner) -> torch.Tensor:
    tuner.ask()
    assert tuner._asked is not None
    return tuner._asked.trajectory.initial_noise


@pytest.mark.parametrize(
    ("indexes", "best", "note"),
    [
        ((), None, "no best image yet"),
        ((0, 1), None, "no best image yet"),
        ((0, 1, 2, 3), 0, "no good image besides the best, or no bad one"),
        ((2,), 2, "no good image besides the best, or no bad one"),
    ],
    ids=["all bad", "no best", "all good", "the best is the only good one"],
)
def test_a_first_round_too_thin_to_fit_changes_no_weights(
    indexes: tuple[int, ...], best: int | None, note: str, start: Callable[..., Tuner]
) -> None:
    tuner = start()
    batch, before = tuner.ask(), state_of(tuner)
    stats = tuner.tell(good(batch, *indexes, best=best))
    assert (stats.steps, stats.figures) == (0, {})
    assert note in stats.note
    assert changed(before, state_of(tuner)) <= {"memory"}
    assert torch.equal(drawn_noise(tuner), fresh(tuner, 2)) == (best is None)
    assert (stats.reward_mean is None) == (best is None)


def test_a_later_round_with_the_best_alone_uses_earlier_good_images(start: Callable[..., Tuner]) -> None:
    tuner = start()
    tuner.tell(good(tuner.ask(), 0, 1, 2, 3, best=0))  # no bad one: nothing fitted yet
    before = state_of(tuner)
    batch = tuner.ask()
    stats = tuner.tell(good(batch, 1, best=1))
    assert "triplet_loss" in stats.figures
    assert stats.steps == 2
    assert stats.best == (batch.ids[1],)
    after = state_of(tuner)
    assert changed(before, after) == {"lora", "memory", "reward", "update"}
    assert torch.equal(after["memory/good.0"], before["memory/good.0"])
    assert torch.equal(after["memory/good_noise.0"], before["memory/good_noise.0"])
    assert not torch.equal(after["memory/best.0"], before["memory/best.0"])


def test_a_later_round_without_bad_images_keeps_the_representation_and_still_rewards(
    start: Callable[..., Tuner],
) -> None:
    tuner = start()
    tuner.tell(good(tuner.ask(), 0, 1, best=0))
    before = state_of(tuner)
    stats = tuner.tell(good(tuner.ask(), 0, 1, 2, 3, best=2))
    assert (stats.figures.get("triplet_loss"), stats.steps) == (None, 2)
    assert "no bad image" in stats.note
    assert changed(before, state_of(tuner)) == {"lora", "memory", "update"}


def test_a_later_round_without_good_images_still_moves_towards_the_kept_best(start: Callable[..., Tuner]) -> None:
    tuner = start()
    first = tuner.ask()
    tuner.tell(good(first, 0, 1, best=0))
    before = state_of(tuner)
    batch = tuner.ask()
    stats = tuner.tell(Feedback.from_good(batch, [], first.ids[0]))
    assert stats.best == (first.ids[0],)
    assert "triplet_loss" in stats.figures  # positives are the good images of the round before
    assert stats.steps == 2
    assert changed(before, state_of(tuner)) == {"lora", "reward", "update"}


def test_a_best_that_is_not_named_again_stays(start: Callable[..., Tuner]) -> None:
    tuner = start()
    first = tuner.ask()
    tuner.tell(good(first, 0, 1, best=0))
    before = state_of(tuner)
    second = tuner.ask()
    stats = tuner.tell(good(second, 2))
    assert stats.best == (first.ids[0],)
    after = state_of(tuner)
    assert torch.equal(after["memory/best.0"], before["memory/best.0"])
    assert torch.equal(after["memory/best_noise.0"], before["memory/best_noise.0"])
    assert after["memory/good.0"].shape[0] == 1


def test_unlabelled_images_are_neither_good_nor_bad(start: Callable[..., Tuner]) -> None:
    tuner = start()
    batch = tuner.ask()
    stats = tuner.tell(Feedback({batch.ids[0]: "good", batch.ids[1]: "good", batch.ids[2]: "bad"}, batch.ids[0]))
    assert (stats.good, stats.bad, stats.labels) == (2, 1, 4)
    assert stats.steps == 2  # its similarity rewards it all the same
    assert state_of(tuner)["memory/good.0"].shape[0] == 1


def test_no_answer_at_all_is_a_legal_answer(start: Callable[..., Tuner]) -> None:
    tuner = start()
    before = state_of(tuner)
    tuner.ask()
    stats = tuner.tell(Feedback())
    assert (stats.good, stats.bad, stats.steps) == (0, 0, 0)
    assert changed(before, state_of(tuner)) == set()
    assert tuner.round == 2


def test_equal_rewards_teach_nothing(start: Callable[..., Tuner]) -> None:
    tuner = start(method="ddpo")
    before = state_of(tuner)
    stats = tuner.tell(good(tuner.ask(), 0, 1, 2, 3))
    assert (stats.steps, stats.note) == (0, "all rewards are equal: no update")
    assert changed(before, state_of(tuner)) <= {"memory"}


def test_prompts_have_their_own_best_and_noise(start: Callable[..., Tuner]) -> None:
    tuner = start(prompts=PROMPTS, rounds=2)
    batch = tuner.ask()
    tuner.tell(good(batch, 0, 2, best=2))  # the second prompt has no good image
    assert tuner.learner.memory.best_id == {0: batch.ids[2]}
    assert [(best.id, best.prompt) for best in tuner.best] == [(batch.ids[2], PROMPTS[0])]
    noise, standard = drawn_noise(tuner), fresh(tuner, 2)
    assert [torch.equal(noise[k], standard[k]) for k in range(4)] == [False, True, False, True]
    second = tuner.ask()
    tuner.tell(Feedback.from_good(second, [second.ids[1]], [batch.ids[2], second.ids[1]]))
    assert tuner.learner.memory.best_id == {0: batch.ids[2], 1: second.ids[1]}


# ---------------------------------------------------------------------------------------------- other methods


def test_the_noise_may_be_another_one_from_here_on(start: Callable[..., Tuner], tmp_path: Path) -> None:
    """What is remembered of images is the run's, whatever draws from it."""
    tuner = start()
    tuner.tell(good(tuner.ask(), 0, 1, best=0))
    assert not torch.equal(drawn_noise(tuner), fresh(tuner, 2))
    tuner.close()
    with Tuner.resume(tuner.directory.path, {"noise": {"kind": "standard"}}) as again:
        assert torch.equal(drawn_noise(again), fresh(again, 2))
        again.tell(good(again.ask(), 2, best=2))
    with Tuner.resume(tuner.directory.path, {"noise": {"kind": "feedback"}, "rounds": 4}) as back:
        assert not torch.equal(drawn_noise(back), fresh(back, 3))


def test_labels_as_rewards_leave_noise_and_representation_alone(start: Callable[..., Tuner]) -> None:
    tuner = start(method="ddpo")
    before = state_of(tuner)
    batch = tuner.ask()
    stats = tuner.tell(Feedback({batch.ids[0]: "good", batch.ids[1]: "bad", batch.ids[2]: "bad"}))
    assert stats.reward_mean == pytest.approx(1 / 3)  # of those that have a verdict
    assert stats.steps == 2
    assert changed(before, state_of(tuner)) == {"lora", "memory", "update"}  # good images are remembered
    assert torch.equal(drawn_noise(tuner), fresh(tuner, 2))


def test_scores_as_rewards(start: Callable[..., Tuner]) -> None:
    tuner = start(method="ddpo", reward={"kind": "score"})
    batch = tuner.ask()
    stats = tuner.tell(Feedback(scores={i: float(k) for k, i in enumerate(batch.ids)}))
    assert (stats.reward_mean, stats.steps) == (1.5, 2)


def test_noise_only_moves_no_weights(start: Callable[..., Tuner]) -> None:
    tuner = start(method="noise-only")
    before = state_of(tuner)
    stats = tuner.tell(good(tuner.ask(), 0, 1, best=0))
    assert (stats.steps, stats.note) == (0, "")
    assert changed(before, state_of(tuner)) == {"memory"}


# ---------------------------------------------------------------------------------------------- failures


def break_weights(tuner: Tuner) -> None:
    with torch.no_grad():
        tuner.policy.parameters()[0].fill_(float("nan"))


def break_final_latents(tuner: Tuner) -> None:
    assert tuner._asked is not None
    tuner._asked.trajectory.latents[:, -1] = float("nan")


def break_a_log_probability(tuner: Tuner) -> None:
    assert tuner._asked is not None
    tuner._asked.trajectory.log_probs[:] = float("nan")


@pytest.mark.parametrize("break_it", [break_weights, break_final_latents, break_a_log_probability])
def test_what_is_not_a_number_is_never_learnt(
    break_it: Callable[[Tuner], None], start: Callable[..., Tuner], tmp_path: Path
) -> None:
    tuner = start()
    tuner.tell(good(tuner.ask(), 0, 1, best=0))
    before, history = state_of(tuner), list(tuner.history)
    batch = tuner.ask()
    feedback = good(batch, 1, 2, best=2)
    files = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()}
    break_it(tuner)
    with pytest.raises(TrainingError, match="round 2"):
        tuner.tell(feedback)
    assert changed(before, state_of(tuner)) == set()
    assert tuner.history == history
    assert tuner.ask().ids == batch.ids
    assert tuner._asked is not None
    assert torch.isfinite(tuner._asked.trajectory.latents).all()
    assert {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()} == files
    with LabelStore(tmp_path / "run" / "feedback.db") as store:
        assert store.submission(2) == feedback
    tuner.close()
    with Tuner.resume(tmp_path / "run") as again:  # the damage was in memory alone
        assert [stats.round for stats in again.history] == [1, 2]
        assert again.history[1].steps == 2


# ---------------------------------------------------------------------------------------------- the loop


class Watcher:
    """A live evaluator that notes what it sees; the images of the first chunk are good."""

    name = "watcher"

    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def begin(self, start: RoundStart) -> None:
        self.seen.append(("begin", (start.round, start.total, tuple(best.id for best in start.best))))
        self.chunks: list[ImageChunk] = []

    def show(self, chunk: ImageChunk) -> None:
        self.seen.append(("show", chunk.ids))
        self.chunks.append(chunk)

    def collect(self) -> Feedback:
        self.seen.append(("collect", None))
        first, *rest = self.chunks
        verdicts = dict.fromkeys(first.ids, "good") | {i: "bad" for chunk in rest for i in chunk.ids}
        return Feedback(verdicts, best=first.ids[0])


def test_a_live_evaluator_sees_the_images_as_they_are_drawn(start: Callable[..., Tuner], tmp_path: Path) -> None:
    tuner = start(rounds=2, sampling={**SMALL["sampling"], "micro_batch": 2})
    watcher, chunks, rounds = Watcher(), [], []
    history = tuner.run(watcher, on_chunk=chunks.append, on_round=rounds.append)
    assert [what for what, _ in watcher.seen] == ["begin", "show", "show", "collect"] * 2
    assert watcher.seen[0] == ("begin", (1, 4, ()))
    assert watcher.seen[4] == ("begin", (2, 4, ("r0001-i0000",)))
    assert [chunk.ids for chunk in chunks] == [ids for what, ids in watcher.seen if what == "show"]
    assert history == rounds == tuner.history
    assert all(isinstance(stats, RoundStats) for stats in history)
    with LabelStore(tmp_path / "run" / "feedback.db") as store:
        assert {label.evaluator for label in store.labels()} == {"watcher"}
    assert tuner.done
    assert tuner.run(watcher) == history  # a finished run asks nothing more
    assert len(watcher.seen) == 8


def test_a_run_is_a_function_of_its_seed(start: Callable[..., Tuner]) -> None:
    def answer(batch: ImageBatch) -> Feedback:
        return good(batch, 0, 1, best=0)

    one, two, other = (start(name, rounds=1, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for tuner in (one, two, other):
        torch.randn(3)  # the global generator plays no part
        tuner.run(answer)
    assert changed(state_of(one), state_of(two)) == set()
    assert {"lora", "memory", "reward"} <= changed(state_of(one), state_of(other))
