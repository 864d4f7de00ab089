"""Practice: what a method learns from images that nobody looks at, between two questions to the evaluator.

Labels are what costs; draws are cheap. After the update on the labelled images, more images are drawn, the reward
judges them by what it has learnt from all labels so far, and the update learns from that. Practice goes in parts, each
drawn by the model as the part before has left it; every part is a function of (seed, round, part) and the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from hero.config import PracticeConfig
from hero.ids import image_id, prompt_index_of, turn_of
from hero.noise import fresh_noise
from hero.progress import OnImages
from hero.reward.advantages import judge_round
from hero.rollout import concatenate, rollout
from hero.run.state import Learner
from hero.seeding import Stage
from hero.types import Feedback, Labelled

__all__ = ["FIGURES", "Practised", "parts_of", "practise"]

FIGURES: dict[str, str] = {
    "practice_score": "mean of the reward's estimate for the images of the last part of practice: for `head`, p(good)",
    "practice_steps": "optimizer steps of practice",
}
"""Figures of a round with practice."""


@dataclass(frozen=True)
class Practised:
    """What practice has done in a round so far.

    Attributes:
        parts, draws, steps: finished parts, images drawn in them, optimizer steps taken.
        seconds: wall clock.
        score: mean estimate for the images of the last part; None before the first.
    """

    parts: int = 0
    draws: int = 0
    steps: int = 0
    seconds: float = 0.0
    score: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """Those in `FIGURES`; empty if there was no practice."""
        return {} if self.score is None else {"practice_score": self.score, "practice_steps": float(self.steps)}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**values)


def parts_of(config: PracticeConfig) -> list[int]:
    """How many images are drawn in each part."""
    full, rest = divmod(config.draws, config.images)
    return [config.images] * full + ([rest] if rest else [])


def practise(learner: Learner, round_: int, part: int, images: int, on_images: OnImages) -> tuple[int, float]:
    """Draws the images of `part` (from 1), judges them and learns from them.

    Args:
        on_images: called with the images drawn so far in this part, and all of them.

    Returns:
        The optimizer steps taken and the mean of the reward's estimates.

    Raises:
        TrainingError: a loss or gradient is not finite; no optimizer step was taken with it.
    """
    config, policy, update = learner.config, learner.policy, learner.update
    assert update is not None
    turn, prompts = turn_of(round_, part), len(config.task.prompts)
    index = torch.tensor([prompt_index_of(i, prompts) for i in range(images)])
    trajectories = []
    for chunk in rollout(
        policy,
        learner.conditioning,
        index,
        fresh_noise(images, policy.latent_shape, seed=config.seed, round_=turn, stage=Stage.PRACTICE_NOISE),
        seed=config.seed,
        round_=turn,
        micro_batch=config.sampling.micro_batch,
        stage=Stage.PRACTICE_STEP_NOISE,
        adapter=update.sampling(),
        decoded=False,
        workers=learner.workers,
    ):
        trajectories.append(chunk.trajectory)
        on_images(chunk.indices.stop, images)
    trajectory = concatenate(trajectories)
    ids = tuple(image_id(round_, i) for i in range(images))
    unlabelled = Labelled(round_, ids, index, trajectory.final_latents, Feedback(), trajectory.initial_noise)
    estimates, rewards = learner.reward.practice(unlabelled)
    stats = update.step(
        judge_round(unlabelled, trajectory, rewards, config.reward), learner.conditioning, turn, learner.workers
    )
    return stats.steps if stats else 0, float(estimates.nanmean())
