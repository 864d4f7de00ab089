"""What a run achieved: success, diversity and drift, on held-out noises, each figure with the data behind it."""

from __future__ import annotations

from hero.evaluation.features import FEATURE_MAP, pixel_features
from hero.evaluation.intervals import Measured, wilson_interval
from hero.evaluation.measure import HELD_OUT, evaluate
from hero.evaluation.prompts import unrelated_prompts
from hero.evaluation.result import SETS, EvaluationResult
from hero.evaluation.variety import (
    DIVERSITY_SAMPLE,
    MIN_DIVERSITY_SAMPLE,
    Drift,
    diversity,
    drift,
    vendi_score,
)

__all__ = [
    "DIVERSITY_SAMPLE",
    "FEATURE_MAP",
    "HELD_OUT",
    "MIN_DIVERSITY_SAMPLE",
    "SETS",
    "Drift",
    "EvaluationResult",
    "Measured",
    "diversity",
    "drift",
    "evaluate",
    "pixel_features",
    "unrelated_prompts",
    "vendi_score",
    "wilson_interval",
]
