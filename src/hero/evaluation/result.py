"""The result of an evaluation. Figures that cannot be known are None, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hero.evaluation.intervals import Measured
from hero.evaluation.variety import Drift

__all__ = ["SETS", "EvaluationResult"]

SETS = ("base", "tuned_fresh", "tuned_refined")
"""The image sets of an evaluation: base and tuned model on fresh noise, tuned model on refined noise."""


@dataclass(frozen=True)
class EvaluationResult:
    """The result of `evaluate`. Mappings have the keys `SETS`; None means that the figure cannot be known.

    Attributes:
        task: name of the task, "custom" for the user's own prompts.
        images: images per set.
        labels: labels spent on training.
        success: share of images that the task's judge calls a success.
        diversity: Vendi score of successful images (of all, without a judge) as a share of the base's.
        drift: change on unrelated prompts.
        people: the verdicts of people on the same images, seen blind, once they have given them (evaluation/people.py).
        details: JSON-ready extras: counts, raw scores, figures by prompt, sampler, feature map, judge.
    """

    task: str
    images: int
    labels: int
    success: Mapping[str, Measured | None]
    diversity: Mapping[str, float | None]
    drift: Drift | None
    people: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The object that `hero evaluate --json` prints."""
        measured = {name: self.success.get(name) for name in SETS}
        return {
            "task": self.task,
            "images": self.images,
            "labels": self.labels,
            "success": {name: None if m is None else m.value for name, m in measured.items()},
            "success_interval": {name: None if m is None else [m.low, m.high] for name, m in measured.items()},
            "diversity": {name: self.diversity.get(name) for name in SETS},
            "drift": None if self.drift is None else self.drift.feature_distance,
            "people": None if self.people is None else dict(self.people),
            "details": dict(self.details),
        }
