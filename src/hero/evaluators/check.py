"""Tries an evaluator on one batch and says what is wrong with it, before a run depends on it."""

from __future__ import annotations

from hero.errors import FeedbackError
from hero.evaluators.protocols import LiveEvaluator, ask_about
from hero.types import Feedback, ImageBatch

__all__ = ["check_evaluator"]


def check_evaluator(evaluator: object, batch: ImageBatch) -> list[str]:
    """Asks `evaluator` about `batch` once and returns what to fix, one message per fault; empty if there is none.

    Pass a batch of a later round, with `best` filled, to test how the evaluator deals with a kept best image.
    """
    if not (isinstance(evaluator, LiveEvaluator) or callable(evaluator)):
        return [
            f"{type(evaluator).__name__} is not an evaluator: make it callable with an ImageBatch, "
            "or give it begin(start), show(chunk) and collect()"
        ]
    before = _pixels(batch)
    try:
        answer: object = ask_about(evaluator, batch)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        return [f"the evaluator raised {cause}; it must answer any batch with a Feedback"]
    messages = []
    if _pixels(batch) != before:
        messages.append("the evaluator changed the images it was shown; work on copies (image.copy())")
    if not isinstance(answer, Feedback):
        given = type(answer).__name__
        return [*messages, f"the evaluator returned a {given}; return hero.Feedback (see Feedback.from_good)"]
    return messages + _check_answer(answer, batch)


def _pixels(batch: ImageBatch) -> list[bytes]:
    return [image.tobytes() for image in (*batch.images, *(best.image for best in batch.best))]


def _check_answer(answer: Feedback, batch: ImageBatch) -> list[str]:
    try:
        answer.check(batch)
    except FeedbackError as error:
        return [str(error)]
    if not (answer.verdicts or answer.scores or answer.pairs):
        return ["the evaluator labelled no image; give verdicts, scores or pairs"]
    messages = []
    unlabelled = len(batch) - len(answer.verdicts)
    if answer.good and not answer.bad and unlabelled:
        messages.append(
            f"images left out are unlabelled, not bad: {len(answer.good)} are good, {unlabelled} left out; "
            "use Feedback.from_good(batch, good_ids, best_id) to mark all others bad"
        )
    if answer.good and not answer.best:
        messages.append("images are good but none is the best; name one, or the method hero learns nothing")
    return messages
