"""What a run achieved: success, diversity and drift, on held-out noises, each figure with the data behind it.

Names are imported on first use: intervals and stored results are read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_NAMES_OF = {
    "features": ("FEATURE_MAP", "pixel_features"),
    "intervals": ("Measured", "wilson_interval"),
    "measure": ("HELD_OUT", "evaluate"),
    "prompts": ("unrelated_prompts",),
    "result": ("SETS", "EvaluationResult"),
    "variety": ("DIVERSITY_SAMPLE", "MIN_DIVERSITY_SAMPLE", "Drift", "diversity", "drift", "vendi_score"),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"hero.evaluation.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'hero.evaluation' has no attribute {name!r}")
