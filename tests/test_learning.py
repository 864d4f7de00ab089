"""The bundled model learns from feedback, and does not where the feedback means nothing.

The same check runs on honest and on shuffled feedback: it must pass on the first and fail on the second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hero import Config, Feedback, ImageBatch, Tuner, configure
from hero.evaluators import make_evaluator
from hero.noise import StandardNoise
from hero.policies import Policy
from hero.rollout import draw_images
from hero.tinyworld import model_path
from hero.trained import TrainedRun

pytestmark = [
    pytest.mark.learns,
    pytest.mark.skipif(not model_path().is_dir(), reason="the bundled model is not in this checkout"),
]

HELD_OUT = 32


def warmth(image: Image.Image) -> float:
    """A dense score that needs no judge: mean red minus mean blue, in [-255, 255]."""
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    return float(pixels[..., 0].mean() - pixels[..., 2].mean())


def honest(batch: ImageBatch) -> Feedback:
    return Feedback(scores={i: warmth(image) for i, image, _ in batch})


def shuffled(batch: ImageBatch) -> Feedback:
    scores = [warmth(image) for image in batch.images]
    order = np.random.default_rng(batch.round).permutation(len(scores))
    return Feedback(scores={i: scores[k] for i, k in zip(batch.ids, order, strict=True)})


Marks = Callable[[ImageBatch], Feedback]


def marked(batch: ImageBatch, *, meant: bool) -> Feedback:
    """The warmer half of the images is good, the warmest the best; not `meant`: the same marks on other images."""
    scores = [warmth(image) for image in batch.images]
    order = range(len(scores)) if meant else np.random.default_rng(batch.round).permutation(len(scores))
    ranked = sorted(range(len(scores)), key=lambda k: scores[order[k]], reverse=True)
    good = [batch.ids[k] for k in ranked[: len(ranked) // 2]]
    return Feedback.from_good(batch, good, good[0])


def held_out_scores(policy: Policy, config: Config) -> npt.NDArray[np.float64]:
    prompts = list(config.task.prompts) * HELD_OUT
    noise = StandardNoise().sample(prompts, policy.latent_shape, seed=99, round_=0, stage="test-noise")
    images = draw_images(policy, prompts, noise, seed=99, stage="test-step-noise", micro_batch=16)
    return np.array([warmth(image) for image in images])


def short_run(method: str, rounds: int, **settings: Any) -> Config:
    """A run of a few rounds of 32 images, of eight steps each and without guidance, which is quick."""
    sampling, evaluator = {"num_steps": 8, "guidance_scale": 1.0}, {"name": "python"}
    own = {"sampling": sampling, "evaluator": evaluator, **settings}
    return configure("blue-rose", method=method, rounds=rounds, images_per_round=32, settings=own)


DDPO = short_run(
    "ddpo",
    3,
    reward={"kind": "score"},
    update={"images_per_step": 32, "inner_epochs": 2, "learning_rate": 1e-3, "ppo": {"timesteps_per_image": 4}},
)


def effect_of_training(evaluator: Marks, out: Path, config: Config = DDPO) -> float:
    """How far training moved the score of held-out images, in standard deviations of the base model's scores."""
    with Tuner(config, out) as tuner:
        before = held_out_scores(tuner.policy, config)
        tuner.run(evaluator)
        after = held_out_scores(tuner.policy, config)
    return float((after - before).mean() / before.std())


LEARNT = 1.5
"""Measured: 2.4 with honest scores, 0.6 with shuffled ones (any update drifts somewhere)."""


def test_policy_gradient_learns_a_score(tmp_path: Path) -> None:
    assert effect_of_training(honest, tmp_path / "run") > LEARNT


def test_the_same_check_fails_on_shuffled_scores(tmp_path: Path) -> None:
    assert not effect_of_training(shuffled, tmp_path / "run") > LEARNT


PAIRS = {"images_per_step": 32, "learning_rate": 1e-3, "d3po": {"timesteps_per_image": 4, "pairs_per_round": 32}}
GOOD_ONES = {"images_per_step": 16, "inner_epochs": 2, "learning_rate": 1e-3, "raft": {"levels_per_image": 2}}
BASELINES = {
    "d3po": short_run("d3po", 3, update=PAIRS),
    "d3po-fresh": short_run("d3po-fresh", 3, update=PAIRS),
    "raft": short_run("raft", 3, update=GOOD_ONES),
}

MOVED = {"d3po": 2.0, "d3po-fresh": 2.0, "raft": 0.6}
"""Measured with honest and with shuffled marks: d3po 3.59 and −0.77, d3po-fresh 3.43 and 1.29, raft 0.85 and 0.29."""


@pytest.mark.slow
@pytest.mark.parametrize("method", BASELINES)
def test_baselines_learn_from_marks(method: str, tmp_path: Path) -> None:
    effect = effect_of_training(partial(marked, meant=True), tmp_path / "run", BASELINES[method])
    assert effect > MOVED[method]


@pytest.mark.slow
@pytest.mark.parametrize("method", BASELINES)
def test_the_same_check_fails_on_shuffled_marks(method: str, tmp_path: Path) -> None:
    effect = effect_of_training(partial(marked, meant=False), tmp_path / "run", BASELINES[method])
    assert not effect > MOVED[method]


def effect_of_choosing(evaluator: Marks, out: Path) -> float:
    """How much higher the score of the best of four by the learnt reward is than that of the first, in deviations."""
    config = short_run("best-of-n", 2)
    with Tuner(config, out) as tuner:
        tuner.run(evaluator)
    trained = TrainedRun(out)
    first, best = (np.array([warmth(i) for i in trained.generate(images=HELD_OUT, best_of=n)]) for n in (1, 4))
    return float((best - first).mean() / first.std())


CHOSEN = 0.6
"""Measured with honest marks: 0.92. Four draws of a normal score, chosen by the score itself, would give 1.03."""


@pytest.mark.slow
def test_best_of_n_chooses_by_what_was_marked(tmp_path: Path) -> None:
    assert effect_of_choosing(partial(marked, meant=True), tmp_path / "run") > CHOSEN


@pytest.mark.slow
def test_the_same_choice_after_shuffled_marks_is_none(tmp_path: Path) -> None:
    assert not effect_of_choosing(partial(marked, meant=False), tmp_path / "run") > CHOSEN


@pytest.mark.slow
def test_hero_raises_success_from_refined_noise(tmp_path: Path) -> None:
    config = configure("blue-rose", rounds=4, settings={"evaluation": {"images": 64}})
    with Tuner(config, tmp_path / "run") as tuner:
        history = tuner.run(make_evaluator(config))
    assert history[-1].labels == 4 * config.sampling.images_per_round
    success = TrainedRun(tmp_path / "run").evaluate().to_dict()["success"]
    assert success["tuned_refined"] >= min(2 * success["base"], 0.75)
