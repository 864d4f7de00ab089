"""The two shapes of an evaluator: one that answers a finished batch, and one that sees images as they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from hero.types import Feedback, ImageBatch, ImageChunk, RoundStart

__all__ = ["Evaluator", "LiveEvaluator", "ask", "ask_about", "evaluator_name"]

Evaluator = Callable[[ImageBatch], Feedback]
"""Answers the images of one round."""

Show = Callable[[ImageChunk], object]
"""Called with images as they are drawn."""


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


def ask(
    evaluator: Evaluator | LiveEvaluator,
    start: RoundStart,
    draw: Callable[[Show], ImageBatch],
) -> Feedback:
    """One round with `evaluator`: it is shown while it is drawn if the evaluator is live, else when it is complete.

    Args:
        start: what is about to be drawn.
        draw: draws it, and passes each chunk to the function that it is given.

    Returns:
        Whatever the evaluator answers; it is not checked.
    """
    if isinstance(evaluator, LiveEvaluator):
        evaluator.begin(start)
        draw(evaluator.show)
        return evaluator.collect()
    return evaluator(draw(lambda chunk: None))


def ask_about(evaluator: Evaluator | LiveEvaluator, batch: ImageBatch) -> Feedback:
    """`ask` about images that exist: a live evaluator is shown all of them at once."""
    prompts = tuple(dict.fromkeys(batch.prompts))

    def show_all(show: Show) -> ImageBatch:
        show(ImageChunk(batch.round, batch.ids, batch.images, batch.prompts, len(batch)))
        return batch

    return ask(evaluator, RoundStart(batch.round, len(batch), prompts, batch.best, batch.criterion), show_all)


def evaluator_name(evaluator: Evaluator | LiveEvaluator) -> str:
    """What the label store calls it: its `name`, or that of the function or class."""
    return str(getattr(evaluator, "name", None) or getattr(evaluator, "__name__", type(evaluator).__name__))
