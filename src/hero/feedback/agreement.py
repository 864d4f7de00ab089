"""How far the evaluators of one round agree: Krippendorff's alpha, the share of full agreement, the disputed images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hero.types import Feedback, ImageId, Verdict

__all__ = ["Agreement", "measure_agreement"]


@dataclass(frozen=True)
class Agreement:
    """The result of `measure_agreement`; it covers the images with at least two verdicts.

    Attributes:
        evaluators: names, in order.
        images: how many images at least two of them judged.
        alpha: Krippendorff's alpha of the verdicts: 1 is full agreement, 0 what chance would give, below 0 worse than
            chance. None if everyone always gave the same verdict, so that there is nothing to compare with chance.
        full_share: share of those images on which all who judged them agree.
        disputed: the other images, in order of their ids.
    """

    evaluators: tuple[str, ...]
    images: int
    alpha: float | None
    full_share: float
    disputed: tuple[ImageId, ...]


def measure_agreement(answers: Mapping[str, Feedback]) -> Agreement | None:
    """Agreement of the verdicts in `answers` (evaluator → answer); None unless two judged the same image.

    alpha = 1 − D_o / D_e, observed over expected disagreement of nominal values; images left out by an
    evaluator count as missing, not as bad (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").
    """
    given: dict[ImageId, list[Verdict]] = {}
    for answer in answers.values():
        for image, verdict in answer.verdicts.items():
            given.setdefault(image, []).append(verdict)
    shared = sorted(image for image, verdicts in given.items() if len(verdicts) > 1)
    if not shared:
        return None
    disputed = tuple(image for image in shared if len(set(given[image])) > 1)
    return Agreement(
        tuple(sorted(answers)), len(shared), _alpha(answers, shared), 1 - len(disputed) / len(shared), disputed
    )


def _alpha(answers: Mapping[str, Feedback], images: list[ImageId]) -> float | None:
    from krippendorff import alpha  # imported here because the labelling page never needs it

    rating = {Verdict.GOOD: 1.0, Verdict.BAD: 0.0, None: np.nan}
    ratings = np.array([[rating[answer.verdicts.get(image)] for image in images] for answer in answers.values()])
    if len(set(ratings[~np.isnan(ratings)])) < 2:
        return None
    return float(alpha(ratings, level_of_measurement="nominal"))
