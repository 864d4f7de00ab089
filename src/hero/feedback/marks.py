"""Marks: single statements of an evaluator about one image, and the feedback that a series of them amounts to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hero.errors import FeedbackError
from hero.types import Feedback, ImageId, Verdict

__all__ = ["LONGEST_REASON", "Asides", "Mark", "MarkKind", "asides_of", "marks_of", "replay", "withdrawals_of"]

_CHOSEN = "yes"

LONGEST_REASON = 500
"""Most characters of a reason."""

MarkKind = Literal["verdict", "best", "score", "pair", "unsure", "reason", "rest"]
"""The last three are asides: nothing is learnt from them, but they say how to read the verdict beside them."""
Statement = tuple[ImageId, MarkKind, str | None, ImageId | None]
"""(image, kind, value, other) of a stored mark."""


@dataclass(frozen=True)
class Mark:
    """One statement of an evaluator about one image.

    Attributes:
        image_id: the image; the winner of a pair.
        kind: what is stated.
        value: "good" or "bad" for a verdict, a finite number for a score, words for a reason, "yes" for a best image, a
            pair, or an image that the evaluator would not decide on (unsure); for one whose verdict was not said but
            follows from submitting (rest) "unmarked", or "unseen" if it was never in view; None withdraws the earlier
            statement.
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


@dataclass(frozen=True)
class Asides:
    """What an evaluator said of the images of a round beside their feedback.

    Attributes:
        unsure: images that they would not decide on, in the order marked; left unlabelled when they submit.
        reasons: image → why it is marked as it is, in their words.
        rest: images that are bad because they were left unmarked → "unmarked", or "unseen" if they were never in view.
    """

    unsure: tuple[ImageId, ...] = ()
    reasons: Mapping[ImageId, str] = field(default_factory=dict)
    rest: Mapping[ImageId, str] = field(default_factory=dict)


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
        elif kind != "pair":
            continue  # an aside
        elif other is not None and value is not None:
            pairs.append((image, other))
        else:
            # A pair may be stated twice, which counts twice; withdrawing it withdraws both.
            pairs = [pair for pair in pairs if pair != (image, other)]
    return Feedback(verdicts, tuple(best), scores, pairs)


def asides_of(statements: Iterable[Statement]) -> Asides:
    """What marks, oldest first, say beside the feedback: per image and kind the last counts.

    A verdict settles an image that its evaluator was unsure about.
    """
    unsure: dict[ImageId, None] = {}
    reasons: dict[ImageId, str] = {}
    rest: dict[ImageId, str] = {}
    for image, kind, value, _ in statements:
        if kind == "unsure":
            _set(unsure, image, value)
        elif kind == "verdict" and value is not None:
            unsure.pop(image, None)
        elif kind == "reason":
            _set(reasons, image, value)
        elif kind == "rest":
            _set(rest, image, value)
    return Asides(tuple(unsure), reasons, rest)


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
    if kind == "rest":
        return value in ("unmarked", "unseen")
    if kind == "reason":
        return 0 < len(value) <= LONGEST_REASON
    return value == _CHOSEN
