"""Practice: what a method learns from images that nobody looks at, between two questions to the evaluator.

Labels are what costs; draws are cheap. After the update on the labelled images, more images are drawn, the reward
judges them by what it has learnt from all labels so far, and the update learns from that. Practice goes in parts, each
drawn by the model as the part before has left it; every part is a function of (seed, round, part) and the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from hero.config import PracticeConfig
from hero.ids import image_id, turn_of
from hero.noise import fresh_noise
from hero.reward.advantages import judge_round
from hero.rollout import concatenate, rollout
from hero.run.state import Learner
from hero.seeding import Stage
from hero.turns import prompt_indices
from hero.types import Feedback, Labelled

__all__ = ["FIGURES", "Practised", "good_enough", "parts_of", "practise"]

FIGURES: dict[str, str] = {
    "practice_score": "mean of the reward's estimate for the images of the last part of practice: for `head`, p(good)",
    "practice_steps": "optimizer steps of practice",
    "share_good": "the share of good images that the model draws, estimated from the images of the last part, which "
    "nobody has looked at; missing if the reward cannot tell",
    "share_good_error": "its standard error, as far as good and bad images look like those that were labelled",
}
"""Figures of a round with practice."""


@dataclass(frozen=True)
class Practised:
    """What practice has done in a round so far.

    Attributes:
        parts, draws, steps: finished parts, images drawn in them, optimizer steps taken.
        seconds: wall clock.
        score: mean estimate for the images of the last part; None before the first.
        share_good: the share of good images among them, and its standard error; None if the reward cannot tell.
        enough: whether that is good enough, so that nothing was learnt from them and practice is over.
    """

    parts: int = 0
    draws: int = 0
    steps: int = 0
    seconds: float = 0.0
    score: float | None = None
    share_good: tuple[float, float] | None = None
    enough: bool = False

    @property
    def figures(self) -> dict[str, float]:
        """Those in `FIGURES`; empty if there was no practice."""
        if self.score is None:
            return {}
        share = dict(zip(("share_good", "share_good_error"), self.share_good or (), strict=False))
        return {"practice_score": self.score, "practice_steps": float(self.steps), **share}

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        share = values["share_good"]
        return cls(**{**values, "share_good": share and (share[0], share[1])})


def parts_of(config: PracticeConfig) -> list[int]:
    """How many images are drawn in each part."""
    full, rest = divmod(config.draws, config.images)
    return [config.images] * full + ([rest] if rest else [])


def good_enough(feedback: Feedback, config: PracticeConfig) -> bool:
    """Whether a round's labels say that the model needs no more training, as far as anything is good enough."""
    judged = len(feedback.verdicts)
    return config.enough < 1 and judged > 0 and len(feedback.good) / judged >= config.enough


def practise(
    learner: Learner, round_: int, before: Practised, images: int, on_images: Callable[[int], object]
) -> Practised:
    """Draws the images of one more part, judges them and, unless they are good enough, learns from them.

    Args:
        before: what was practised in this round before.
        on_images: called with the images drawn so far in this round.

    Returns:
        What was practised with this part.

    Raises:
        TrainingError: a loss or gradient is not finite; no optimizer step was taken with it.
    """
    config, policy, update = learner.config, learner.policy, learner.update
    assert update is not None
    began = time.monotonic()
    part = before.parts + 1
    turn = turn_of(round_, part)
    index = torch.tensor(prompt_indices(config, round_, images))
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
        merged=True,
        workers=learner.workers,
    ):
        trajectories.append(chunk.trajectory)
        on_images(before.draws + chunk.indices.stop)
    trajectory = concatenate(trajectories)
    ids = tuple(image_id(round_, i) for i in range(images))
    unlabelled = Labelled(round_, ids, index, trajectory.final_latents, Feedback(), trajectory.initial_noise)
    estimates, rewards = learner.reward.practice(unlabelled)
    share = learner.reward.share_good(estimates)
    # A standard error below it: where the reward can hardly tell, practice goes on.
    enough = config.practice.enough < 1 and share is not None and share[0] - share[1] >= config.practice.enough
    stats = None
    if not enough:
        judged = judge_round(unlabelled, trajectory, rewards, config.reward)
        stats = update.step(judged, learner.conditioning, turn, learner.workers)
    return Practised(
        part,
        before.draws + images,
        before.steps + (stats.steps if stats else 0),
        before.seconds + time.monotonic() - began,
        float(estimates.nanmean()),
        share,
        enough,
    )
