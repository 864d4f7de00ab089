"""The figures of one round: a line of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence

from hero.config import Config
from hero.memory import Memory
from hero.tasks import judge_for
from hero.types import Feedback, ImageBatch, Rewards, RoundStats, UpdateStats

__all__ = ["round_stats"]


def round_stats(
    config: Config,
    earlier: Sequence[RoundStats],
    batch: ImageBatch,
    feedback: Feedback,
    memory: Memory,
    rewards: Rewards,
    triplet_loss: float | None,
    update: UpdateStats | None,
    *,
    seconds_sampling: float,
    seconds_waiting: float,
    seconds_updating: float,
) -> RoundStats:
    """What a round cost and did; `earlier` are the rounds before, `memory` is as of its end.

    `success_shown` is the judge's, whoever evaluated; None where no judge was made for the task and the model.
    """
    known = rewards.rewards[~rewards.rewards.isnan()]
    judge = judge_for(config.task.name, config.model.path)
    success = [judge(image).success for image in batch.images] if judge else None
    return RoundStats(
        round=batch.round,
        labels=sum(stats.images for stats in earlier) + len(batch),
        images=len(batch),
        good=len(feedback.good),
        bad=len(feedback.bad),
        best=tuple(best for _, best in sorted(memory.best_id.items())),
        reward_mean=float(known.mean()) if len(known) else None,
        reward_std=float(known.std(correction=0)) if len(known) else None,
        triplet_loss=triplet_loss,
        steps=update.steps if update else 0,
        loss=update.loss if update else None,
        ratio_mean=update.ratio_mean if update else None,
        first_ratio_deviation=update.first_ratio_deviation if update else None,
        kl=update.kl if update else None,
        clip_fraction=update.clip_fraction if update else None,
        grad_norm=update.grad_norm if update else None,
        success_shown=sum(success) / len(success) if success else None,
        note=_note(config, feedback, memory, rewards, update),
        seconds_sampling=seconds_sampling,
        seconds_waiting=seconds_waiting,
        seconds_updating=seconds_updating,
    )


def _note(config: Config, feedback: Feedback, memory: Memory, rewards: Rewards, update: UpdateStats | None) -> str:
    """Why a thin round taught less than a full one; "" otherwise."""
    if config.update.kind == "none":
        return ""
    if not memory.best and config.reward.kind.startswith("similarity"):
        return "no best image yet: nothing learnt, fresh noise again"
    if bool(rewards.rewards.isnan().all()):
        return "no image has a reward (no verdicts or scores): no update"
    if update is None and not rewards.advantages.any():
        return "all rewards are equal: no update"
    if update is None:
        return "no good image besides the best, or no bad one, in any round yet: no update"
    if not feedback.bad and config.reward.kind.startswith("similarity"):
        return "no bad image: the representation was kept as it is"
    return ""
