"""The bundled model learns from feedback, and does not where the feedback means nothing.

The same check runs on honest and on shuffled rewards: it must pass on the first and fail on the second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def held_out_scores(policy: Policy, config: Config) -> npt.NDArray[np.float64]:
    prompts = list(config.task.prompts) * HELD_OUT
    noise = StandardNoise().sample(prompts, policy.latent_shape, seed=99, round_=0, stage="test-noise")
    images = draw_images(policy, prompts, noise, seed=99, stage="test-step-noise", micro_batch=16)
    return np.array([warmth(image) for image in images])


def effect_of_training(evaluator: Callable[[ImageBatch], Feedback], out: Path) -> float:
    """How far training moved the score of held-out images, in standard deviations of the base model's scores."""
    config = configure(
        "blue-rose",
        method="ddpo",
        rounds=3,
        images_per_round=32,
        settings={
            "reward": {"kind": "score"},
            "sampling": {"num_steps": 8, "guidance_scale": 1.0},
            "update": {
                "images_per_step": 32,
                "inner_epochs": 2,
                "learning_rate": 1e-3,
                "ppo": {"timesteps_per_image": 4},
            },
            "evaluator": {"name": "python"},
        },
    )
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


@pytest.mark.slow
def test_hero_raises_success_from_refined_noise(tmp_path: Path) -> None:
    config = configure("blue-rose", rounds=4, settings={"evaluation": {"images": 64}})
    with Tuner(config, tmp_path / "run") as tuner:
        history = tuner.run(make_evaluator(config))
    assert history[-1].labels == 4 * config.sampling.images_per_round
    success = TrainedRun(tmp_path / "run").evaluate().to_dict()["success"]
    assert success["tuned_refined"] >= min(2 * success["base"], 0.75)
