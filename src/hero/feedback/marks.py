"""Marks: single statements of an evaluator about one image, and the feedback that a series of them amounts to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hero.errors import FeedbackError
from hero.types import Feedback, ImageId, Verdict

__all__ = ["Mark", "MarkKind", "marks_of", "replay", "withdrawals_of"]

_CHOSEN = "yes"

MarkKind = Literal["verdict", "best", "score", "pair"]
Statement = tuple[ImageId, MarkKind, str | None, ImageId | None]
"""(image, kind, value, other) of a stored mark."""


@dataclass(frozen=True)
class Mark:
    """One statement of an evaluator about one image.

    Attributes:
        image_id: the image; the winner of a pair.
        kind: what is stated.
        value: "good" or "bad" for a verdict, a finite number for a score, "yes" for a best image or a pair;
            None withdraws the earlier statement.
        other: the loser of a pair, else None.
        suggested: what the evaluator was shown as a suggestion, if anything.
        seconds: time that this mark took, if known.

    Raises:
        FeedbackError: the value does not fit the kind, or `other` is missing or should not be there.
    """

    image_id: ImageId
    kind: MarkKind
    value: str | None
    other: ImageId | None = None
    suggested: str | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(MarkKind):
            known = ", ".join(get_args(MarkKind))
            raise FeedbackError(f"mark of {self.image_id}: unknown kind {self.kind!r}; known: {known}")
        if (self.kind == "pair") != (self.other is not None):
            raise FeedbackError(f"mark of {self.image_id}: a pair, and only a pair, names another image")
        if self.value is not None and not _fits(self.kind, self.value):
            raise FeedbackError(f"mark of {self.image_id}: {self.value!r} is not a value of a {self.kind}")


def marks_of(feedback: Feedback) -> list[Mark]:
    """The marks that amount to `feedback`, in its order."""
    return [
        *(Mark(image, "verdict", str(verdict)) for image, verdict in feedback.verdicts.items()),
        *(Mark(image, "best", _CHOSEN) for image in feedback.best),
        *(Mark(image, "score", repr(score)) for image, score in feedback.scores.items()),
        *(Mark(winner, "pair", _CHOSEN, other=loser) for winner, loser in feedback.pairs),
    ]


def withdrawals_of(feedback: Feedback) -> list[Mark]:
    """The marks that withdraw all of `feedback`."""
    return [
        *(Mark(image, "verdict", None) for image in feedback.verdicts),
        *(Mark(image, "best", None) for image in feedback.best),
        *(Mark(image, "score", None) for image in feedback.scores),
        *(Mark(winner, "pair", None, other=loser) for winner, loser in dict.fromkeys(feedback.pairs)),
    ]


def replay(statements: Iterable[Statement]) -> Feedback:
    """The feedback that marks, oldest first, amount to: per image and kind the last counts, in order of the first."""
    verdicts: dict[ImageId, str] = {}
    scores: dict[ImageId, float] = {}
    best: dict[ImageId, None] = {}
    pairs: list[tuple[ImageId, ImageId]] = []
    for image, kind, value, other in statements:
        if kind == "verdict":
            _set(verdicts, image, value)
        elif kind == "score":
            _set(scores, image, None if value is None else float(value))
        elif kind == "best":
            _set(best, image, value)
        elif other is not None and value is not None:
            pairs.append((image, other))
        else:
            # A pair may be stated twice, which counts twice; withdrawing it withdraws both.
            pairs = [pair for pair in pairs if pair != (image, other)]
    return Feedback(verdicts, tuple(best), scores, pairs)


def _set(held: dict[ImageId, Any], image: ImageId, value: Any) -> None:
    if value is None:
        held.pop(image, None)
    else:
        held[image] = value


def _fits(kind: MarkKind, value: str) -> bool:
    if kind == "verdict":
        return value in tuple(Verdict)
    if kind == "score":
        try:
            return math.isfinite(float(value))
        except ValueError:
            return False
    return value == _CHOSEN
