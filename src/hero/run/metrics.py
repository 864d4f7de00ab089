"""The figures of one round: a line of metrics.jsonl. A method's own figures are listed in its class."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from hero.config import Config
from hero.practice import Practised, good_enough
from hero.tasks import judge_for
from hero.types import Feedback, ImageBatch, ImageId, Judged, RoundStats, UpdateStats

__all__ = ["round_stats"]


def round_stats(
    config: Config,
    earlier: Sequence[RoundStats],
    batch: ImageBatch,
    feedback: Feedback,
    best: Sequence[ImageId],
    judged: Judged,
    figures: Mapping[str, float],
    update: UpdateStats | None,
    practised: Practised,
    note: str,
    *,
    seconds_sampling: float,
    seconds_waiting: float,
    seconds_updating: float,
) -> RoundStats:
    """What a round cost and what it changed.

    `success_shown` comes from the judge, whoever evaluated; None if there is no judge for the task and the model.

    Args:
        earlier: the rounds before.
        best: ids of the best images so far.
        figures: those of the reward.
        practised: practice after that update.
        note: that of the reward.
    """
    known = judged.rewards[~judged.rewards.isnan()]
    started = time.monotonic()
    judge = judge_for(config.task.name, config.model.path)
    success = [judge(image).success for image in batch.images] if judge else None
    return RoundStats(
        round=batch.round,
        labels=sum(stats.images for stats in earlier) + len(batch),
        images=len(batch),
        good=len(feedback.good),
        bad=len(feedback.bad),
        best=tuple(best),
        reward_mean=float(known.mean()) if len(known) else None,
        reward_std=float(known.std(correction=0)) if len(known) else None,
        steps=update.steps if update else 0,
        loss=update.loss if update else None,
        grad_norm=update.grad_norm if update else None,
        figures={**figures, **(update.figures if update else {}), **practised.figures},
        success_shown=sum(success) / len(success) if success else None,
        note=_note(config, feedback, judged, note, update),
        seconds_sampling=seconds_sampling,
        seconds_waiting=seconds_waiting,
        seconds_updating=seconds_updating,
        seconds_judging=time.monotonic() - started,
        draws=config.drawn - len(batch) + practised.draws,
        seconds_practising=practised.seconds,
    )


def _note(config: Config, feedback: Feedback, judged: Judged, of_reward: str, update: UpdateStats | None) -> str:
    """Why a thin round taught less than a full one; "" otherwise."""
    if not config.update.learns:
        return ""
    if bool(judged.rewards.isnan().all()):
        return of_reward or "no image has a reward (no verdicts or scores): no update"
    if update is None and not of_reward and good_enough(feedback, config.practice):
        return "good enough: no update on these labels"
    if update is None and not judged.advantages.any():
        return "all rewards are equal: no update"
    return of_reward or ("no update" if update is None else "")
