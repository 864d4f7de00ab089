"""The two shapes of an evaluator: one that answers a finished batch, and one that watches the drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from hero.types import Feedback, ImageBatch, ImageChunk, RoundStart

__all__ = ["Evaluator", "LiveEvaluator"]

Evaluator = Callable[[ImageBatch], Feedback]
"""Answers the images of one round."""


@runtime_checkable
class LiveEvaluator(Protocol):
    """Sees images while they are still being drawn. Per round: `begin`, `show` once per chunk, `collect`."""

    def begin(self, start: RoundStart) -> None:
        """A round begins; nothing is drawn yet."""

    def show(self, chunk: ImageChunk) -> None:
        """The next images, in order of their ids."""

    def collect(self) -> Feedback:
        """The answer to the round; may wait for as long as it takes."""
        ...
