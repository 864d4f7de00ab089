"""Defects of the published reference code that must not come back; see docs for the list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from conftest import update_config
from hero.config import Config, validate
from hero.errors import ConfigError
from hero.feedback import LabelStore
from hero.noise import StandardNoise
from hero.policies import Policy
from hero.policies.steps import DDIMSteps
from hero.reward.representation import cosine_distance, triplet_loss
from hero.reward.similarity import similarity
from hero.rollout import rollout
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch, Judged, Trajectory
from hero.update.ppo import PPO

SMALL: dict[str, Any] = {
    "rounds": 3,
    "sampling": {"num_steps": 3, "images_per_round": 4, "micro_batch": 4},
    "lora": {"layers": ("attention",)},
    "update": {"micro_batch": 4},
}


@pytest.fixture
def small(tiny_config: Callable[..., Config]) -> Config:
    return tiny_config(**SMALL)


def trajectory_of(tuner: Tuner) -> Trajectory:
    assert tuner._asked is not None
    return tuner._asked.trajectory


def answer(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[:2], batch.ids[1])


def test_defect_1_the_best_is_an_id_and_not_an_index_into_shifting_candidates(small: Config, tmp_path: Path) -> None:
    """From the second round on, the best image so far is shown beside the new ones; indexes shift by it."""
    with Tuner(small, tmp_path / "run") as tuner:
        first = tuner.ask()
        anchor, start = trajectory_of(tuner).final_latents[1].clone(), trajectory_of(tuner).initial_noise[1].clone()
        tuner.tell(answer(first))
        # Kept from before: still the image of round 1, not the one of the same index in round 2.
        second = tuner.ask()
        tuner.tell(Feedback.from_good(second, second.ids[:2], first.ids[1]))
        memory = tuner.learner.memory
        assert memory.best_id == {0: first.ids[1]}
        assert torch.equal(memory.best[0], anchor)
        assert torch.equal(tuner.learner.memory.best_noise[0], start)
        # A new one: exactly the image of that id.
        third = tuner.ask()
        drawn = trajectory_of(tuner)
        tuner.tell(Feedback.from_good(third, third.ids[2:], third.ids[2]))
        assert memory.best_id == {0: third.ids[2]}
        assert torch.equal(memory.best[0], drawn.final_latents[2])
        assert torch.equal(tuner.learner.memory.best_noise[0], drawn.initial_noise[2])


def test_defect_2_the_feature_is_the_latent_after_the_last_step(small: Config, tmp_path: Path) -> None:
    with Tuner(small, tmp_path / "run") as tuner:
        batch = tuner.ask()
        drawn = trajectory_of(tuner)
        stats = tuner.tell(answer(batch))
        z_0, before = drawn.latents[:, -1], drawn.latents[:, -2]
        embed = tuner.learner.reward.representation.embed
        ours = similarity(embed(z_0), embed(z_0[1:2])).mean().item()
        theirs = similarity(embed(before), embed(before[1:2])).mean().item()
        assert stats.reward_mean == pytest.approx(ours, abs=1e-6)
        assert abs(ours - theirs) > 1e-5
        assert torch.equal(tuner.learner.memory.best[0], z_0[1])
        assert torch.equal(tuner.learner.memory.good[0], z_0[:1])
        decoded = tuner.policy.decode(z_0)
        assert [image.tobytes() for image in decoded] == [image.tobytes() for image in batch.images]


@pytest.mark.parametrize("share", ["none", "all"])
def test_defect_3_no_good_image_and_no_bad_image_are_legal_answers(share: str, small: Config, tmp_path: Path) -> None:
    with Tuner(small, tmp_path / "run") as tuner:
        for _ in range(3):
            batch = tuner.ask()
            if share == "none":
                tuner.tell(Feedback.from_good(batch, []))
            else:
                tuner.tell(Feedback.from_good(batch, batch.ids, batch.ids[0]))
        assert tuner.done
        assert [(s.good, s.bad) for s in tuner.history] == [(0, 4) if share == "none" else (4, 0)] * 3


def test_defect_4_the_first_ratio_is_one_in_half_precision(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy(model={"dtype": "bfloat16"})
    noise = StandardNoise().sample(["1 hand"] * 4, policy.latent_shape, seed=0, round_=1)
    conditioning, index = policy.encode(["1 hand"]), torch.zeros(4, dtype=torch.int64)
    (chunk,) = rollout(policy, conditioning, index, noise, seed=0, round_=1, micro_batch=4)
    # As drawn (the latent is rounded before its log-probability is taken), and as recomputed: the default.
    for recompute, bound in (("never", 1e-5), ("auto", 0.0)):
        config = update_config(timesteps_per_image=4, images_per_step=4, micro_batch=4, recompute_log_probs=recompute)
        update = PPO(policy, config, seed=0)
        advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
        lora = policy.state_dict()
        stats = update.step(Judged(chunk.trajectory, advantages, advantages), conditioning, round_=1)
        policy.load_state_dict(lora)
        assert stats is not None
        assert stats.figures["first_ratio_deviation"] <= bound
    # What the rounding of the latent alone would do to the ratio, measured: above the clip range of 1e-4.
    path, rows = chunk.trajectory.latents, conditioning.rows(index)
    with torch.no_grad():
        step = policy.transition(path[:, 3], torch.full((4,), 3), rows)
    unrounded = step.sample(torch.randn(path[:, 0].shape, generator=torch.Generator().manual_seed(0)))
    ratio = (step.log_prob(unrounded.bfloat16()) - step.log_prob(unrounded)).exp()
    assert (ratio - 1).abs().max() > 1e-4


def test_defect_5_resuming_brings_back_everything(small: Config, tmp_path: Path) -> None:
    with Tuner(small, tmp_path / "run") as tuner:
        tuner.tell(answer(tuner.ask()))
        batch = tuner.ask()
        learner = tuner.learner
        drawn = trajectory_of(tuner)
    with Tuner.resume(tmp_path / "run") as again:
        found = again.learner
        assert again.round == 2
        assert again.history == tuner.history
        assert found.memory.best_id == learner.memory.best_id
        assert found.update is not None
        assert learner.update is not None
        for ours, theirs in (
            (found.memory.tensors(), learner.memory.tensors()),
            (found.reward.representation.state_dict(), learner.reward.representation.state_dict()),
            (found.update.state_dict(), learner.update.state_dict()),
            (found.policy.state_dict(), learner.policy.state_dict()),
        ):
            assert ours
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert again.ask().ids == batch.ids
        restored = trajectory_of(again)
        assert torch.equal(restored.latents, drawn.latents)
        assert torch.equal(restored.log_probs, drawn.log_probs)
        assert again.store.submission(1) is not None


def test_defect_6_labels_are_stored_prompts_are_shown_and_wrong_settings_refused(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    prompts = ("a person posing", "1 hand")
    with Tuner(tiny_config(**{**SMALL, "prompts": prompts}), tmp_path / "run") as tuner:
        batch = tuner.ask()
        assert batch.prompts == prompts * 2
        tuner.tell(answer(batch), evaluator="ada")
    with LabelStore(tmp_path / "run" / "feedback.db") as store:
        verdicts = {label.image_id: label.value for label in store.labels() if label.kind == "verdict"}
        assert verdicts == {i: str(v) for i, v in answer(batch).verdicts.items()}
        assert {(label.evaluator, label.round) for label in store.labels()} == {("ada", 1)}
    with pytest.raises(ConfigError, match="unknown setting 'train_batch_size'"):
        validate({"task": {"prompts": prompts}, "train_batch_size": 2})


def test_defect_7_one_question_a_round_and_no_two_images_from_the_same_noise(small: Config, tmp_path: Path) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []
    noises: list[torch.Tensor] = []

    def evaluator(batch: ImageBatch) -> Feedback:
        asked.append((batch.round, batch.ids))
        noises.append(trajectory_of(tuner).initial_noise)
        return answer(batch)

    with Tuner(small, tmp_path / "run") as tuner:
        tuner.run(evaluator)
    assert [round_ for round_, _ in asked] == [1, 2, 3]
    assert len({i for _, ids in asked for i in ids}) == 12
    flat = torch.cat(noises).flatten(1)
    distance = (flat[:, None] - flat[None]).square().mean(2) + 10 * torch.eye(12)
    assert distance.min() > 0.005  # two draws near one good image differ by 2·ε0²: 0.02


def test_a_distance_does_not_depend_on_the_pairs_beside_it() -> None:
    """There, the cosine is over the batch: as many numbers as dimensions, each of all pairs together."""
    source = torch.Generator().manual_seed(0)
    anchor, positive, negative = (torch.randn(7, 5, generator=source) for _ in range(3))
    together = cosine_distance(anchor, positive)
    assert together.shape == (7,)
    for k in range(7):
        torch.testing.assert_close(cosine_distance(anchor[k : k + 1], positive[k : k + 1])[0], together[k])
    alone = [triplet_loss(anchor[k : k + 1], positive[k : k + 1], negative[k : k + 1], 0.5) for k in range(7)]
    torch.testing.assert_close(triplet_loss(anchor, positive, negative, 0.5), torch.stack(alone).mean())


@pytest.mark.parametrize("clean", [True, False])
def test_the_last_step_ends_at_the_scheduler_s_own_end(clean: bool) -> None:
    """There, the timestep before the last is clamped to 0, which is not the end where that is the clean picture."""
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=clean)
    steps = DDIMSteps(scheduler, 10, 1.0, torch.device("cpu"))
    assert steps.alpha_bar_next[-1] == (1.0 if clean else scheduler.alphas_cumprod[0])
    output, latents = torch.randn(2, 1, 4, 3, 3, generator=torch.Generator().manual_seed(0)).unbind()
    theirs = scheduler.step(output, int(steps.times[-1]), latents, eta=0.0).prev_sample
    ours = DDIMSteps(scheduler, 10, 0.0, torch.device("cpu")).transition(output, latents, torch.tensor([9])).mean
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
