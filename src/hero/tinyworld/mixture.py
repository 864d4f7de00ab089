"""How often the pretraining data show what a task's prompt asks for.

The pretrained model reproduces these shares approximately: they set the base success rates, near those
published for Stable Diffusion 1.5 (README, docs/tinyworld.md). This is the one place to calibrate them.
"""

from __future__ import annotations

__all__ = ["SUCCESS_SHARE"]

SUCCESS_SHARE: dict[str, float] = {
    "hand": 0.034,
    "blue-rose": 0.31,
    "black-cat": 0.24,
    "narcissus": 0.32,
    "mountain": 0.29,
    "green-view": 0.31,
    "modest-figure": 0.66,
}
"""Task -> share of successes among the scenes drawn for its own prompts."""
