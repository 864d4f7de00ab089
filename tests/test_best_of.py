"""Best of n: which candidate is kept, what may choose, and that images, figures and files say what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from conftest import reward_of
from hero.best_of import draw_best, scorer_of
from hero.cli import app
from hero.config import Config, overlaid, validate
from hero.console import success_lines
from hero.errors import ConfigError
from hero.evaluation import evaluate
from hero.memory import Memory
from hero.noise import fresh_noise
from hero.policies import Policy
from hero.report.outcome import chosen_among, tiles_of
from hero.reward.similarity import Similarity, similarity
from hero.rollout import draw_chunks, draw_images
from hero.run.finished import FinishedRun
from hero.seeding import Stage
from hero.trained import TrainedRun
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch, Labelled, image_id

PROMPTS = ("1 hand", "a person posing")
STAGE = Stage.GENERATE_STEP_NOISE
SHAPE = (4, 8, 8)


def same(one: Sequence[Image.Image], two: Sequence[Image.Image]) -> bool:
    return len(one) == len(two) and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, two, strict=True)
    )


def first_channel(final_latents: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """A score that needs no learning."""
    assert len(final_latents) == len(prompts)
    return final_latents[:, 0].float().flatten(1).mean(1)


# ---------------------------------------------------------------------------------------------- drawing


def test_the_candidate_of_the_highest_score_is_kept(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    prompts = [*PROMPTS, *PROMPTS, PROMPTS[0]]

    def noise_of(candidate: int) -> torch.Tensor:
        return fresh_noise(5, policy.latent_shape, seed=3, round_=candidate, stage=Stage.GENERATE_NOISE)

    candidates, scores = [], []
    for k in range(3):
        chunks = list(draw_chunks(policy, prompts, noise_of(k), seed=3, stage=STAGE, micro_batch=2, round_=k))
        candidates.append([image for chunk in chunks for image in chunk.images])
        scores.append(torch.cat([first_channel(c.trajectory.final_latents, [""] * len(c.images)) for c in chunks]))
    best = torch.stack(scores).argmax(0).tolist()
    assert len(set(best)) > 1  # else the choice would prove nothing
    told: list[int] = []
    drawn = draw_best(
        policy, prompts, noise_of, first_channel, 3, seed=3, stage=STAGE, micro_batch=2, on_chunk=told.append
    )
    assert same(drawn, [candidates[k][i] for i, k in enumerate(best)])
    assert told == [2, 2, 1] * 3

    one = draw_best(policy, prompts, noise_of, first_channel, 1, seed=3, stage=STAGE, micro_batch=2)
    assert same(one, draw_images(policy, prompts, noise_of(0), seed=3, stage=STAGE, micro_batch=2))
    equal = draw_best(
        policy, prompts, noise_of, lambda z, _: z.new_zeros(len(z)), 3, seed=3, stage=STAGE, micro_batch=2
    )
    assert same(equal, one)


# ---------------------------------------------------------------------------------------------- what may choose


def fitted(prompt: int = 0) -> Similarity:
    """A similarity that has learnt one round of one of `PROMPTS`."""
    memory = Memory()
    reward = reward_of("similarity", memory, width=16, epochs=2, batch_size=4)
    assert isinstance(reward, Similarity)
    ids = tuple(image_id(1, k) for k in range(4))
    latents = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    said = Feedback({ids[0]: "good", ids[1]: "good", ids[2]: "bad", ids[3]: "bad"}, best=ids[0])
    labelled = Labelled(1, ids, torch.full((4,), prompt), latents, said)
    memory.update_best(labelled)
    reward.fit(labelled)
    return reward


def test_scores_are_the_reward_s_for_the_prompts_that_it_knows() -> None:
    reward = fitted(prompt=1)
    latents = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = scorer_of(reward, PROMPTS, [PROMPTS[1]], SHAPE)(latents, [PROMPTS[1]] * 3)
    embed = reward.representation.embed
    torch.testing.assert_close(found, similarity(embed(latents), embed(reward.memory.best[1][None])))


def test_a_reward_that_cannot_choose_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(ConfigError, match="has learnt nothing yet"):
        scorer_of(reward_of("similarity"), PROMPTS, PROMPTS, SHAPE)
    for kind in ("label", "score"):
        with pytest.raises(ConfigError, match="repeats what it was told"):
            scorer_of(reward_of(kind), PROMPTS, PROMPTS, SHAPE)
    for wanted in (PROMPTS, ["a cat"]):  # of the run, but never labelled; and never heard of
        with pytest.raises(ConfigError, match=f"nothing about {wanted[-1]!r}.*it has about '1 hand'"):
            scorer_of(fitted(prompt=0), PROMPTS, wanted, SHAPE)


# ---------------------------------------------------------------------------------------------- a run


def by_brightness(batch: ImageBatch) -> Feedback:
    light = {i: float(np.asarray(image).mean()) for i, image, _ in batch}
    ranked = sorted(batch.ids, key=light.__getitem__, reverse=True)
    return Feedback.from_good(batch, ranked[: len(ranked) // 2], ranked[0])


@pytest.fixture(scope="module")
def trained(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with the method best-of-n."""
    out = tmp_path_factory.mktemp("best-of") / "run"
    evaluation = {"images": 3, "best_of": 2, "drift_prompts": ("a quiet lake",)}
    with Tuner(tiny_config(method="best-of-n", rounds=1, evaluation=evaluation), out) as tuner:
        (stats,) = tuner.run(by_brightness)
    assert (stats.steps, stats.note) == (0, "")
    return out


def test_a_run_draws_the_best_of_its_candidates(trained: Path) -> None:
    run = TrainedRun(trained)
    told: list[tuple[int, int]] = []
    first = run.generate(images=3, seed=5)
    assert same(run.generate(images=3, seed=5, best_of=1), first)
    best = run.generate(images=3, seed=5, best_of=3, progress=lambda *done: told.append(done))
    assert told[-1] == (9, 9)
    assert same(run.generate(images=3, seed=5, best_of=3), best)
    assert not same(best, first)
    assert same(run.generate(images=3, seed=5, best_of=3, base=True), best)  # its weights are frozen
    with pytest.raises(ConfigError, match="nothing about 'a cat'"):
        run.generate(images=1, prompts=["a cat"], best_of=2)
    with pytest.raises(ValueError, match="best_of is 0"):
        run.generate(images=1, best_of=0)


def test_its_evaluation_says_what_was_chosen_and_what_it_cost(trained: Path, tmp_path: Path) -> None:
    run = TrainedRun(trained)
    told: list[tuple[int, int]] = []
    result = run.evaluate(out=tmp_path / "chosen", progress=lambda *done: told.append(done))
    assert told[-1] == (3 + 2 * 3 + 1, 10)  # base, two candidates each, and the prompt of the drift, drawn once
    assert (result.details["best_of"], result.details["draws"]) == (2, {"base": 3, "tuned_fresh": 6})
    assert result.drift is not None
    assert result.drift.feature_distance == 0
    chosen = {
        name: FinishedRun(trained, evaluation=tmp_path / "chosen").evaluated_images(name)
        for name in ("base", "tuned_fresh")
    }
    single = run.generate(images=1)  # another stage of noises, so that nothing that is evaluated is drawn for use
    assert not any(same(single, [image]) for image in chosen["tuned_fresh"])

    # Without a choice the tuned images are those of the base model, and each that differs is another candidate.
    frozen = validate(overlaid(run.config.model_dump(), {"evaluation": {"best_of": 1}}))
    plain, sets = evaluate(run.policy, None, frozen, None, 6)
    assert same(chosen["base"], sets["base"])
    assert same(sets["tuned_fresh"], sets["base"])
    assert plain.details["draws"] == {"base": 3, "tuned_fresh": 3}
    with pytest.raises(ValueError, match=r"best_of is 2, and there is no scorer"):
        evaluate(run.policy, None, run.config, None, 6)

    finished = FinishedRun(trained)
    assert finished.is_current(result.to_dict())
    assert not finished.is_current(plain.to_dict())


def test_an_evaluation_with_a_choice_is_called_one() -> None:
    said = {"base": 0.2, "tuned_fresh": 0.5, "tuned_refined": None}
    figures = {
        "success": said,
        "success_interval": {name: None if value is None else [0.0, 1.0] for name, value in said.items()},
        "diversity": dict.fromkeys(said),
        "drift": None,
        "images": 10,
        "labels": 6,
        "details": {"best_of": 4},
    }
    assert any("best of 4, chosen by the run's reward" in line for line in success_lines(figures))
    tiles = tiles_of(figures, dict.fromkeys(said, 10), chosen_among(figures))
    assert [tile.noise for tile in tiles] == ["fresh noise", "fresh noise, best of 4", "refined noise, best of 4"]
    figures["details"] = {}  # as older evaluations are
    assert chosen_among(figures) == 1
    assert not any("best of" in line for line in success_lines(figures))


def test_the_command_line_draws_and_refuses_as_python_does(trained: Path, tmp_path: Path) -> None:
    drawn = CliRunner().invoke(
        app, ["generate", str(trained), "--out", str(tmp_path / "a"), "--images", "2", "--best-of", "2"]
    )
    assert drawn.exit_code == 0, drawn.output
    assert "2 images, each the best of 2" in drawn.stdout
    files = [Image.open(path) for path in sorted((tmp_path / "a").glob("*.png"))]
    assert same(files, TrainedRun(trained).generate(images=2, best_of=2))
    refused = ["generate", str(trained), "--out", str(tmp_path / "b"), "--best-of", "2", "--prompt", "a cat"]
    result = CliRunner().invoke(app, refused)
    assert result.exit_code == 2
    assert "has learnt nothing about 'a cat'" in result.stderr
    assert not (tmp_path / "b").exists()
