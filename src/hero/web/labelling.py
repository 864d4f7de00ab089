"""The rules of labelling: which marks follow from a request, and what submitting adds. Nothing is stored here.

Each prompt has at most one best image; the best is good; an image that is bad or unmarked is not the best. An image
that its evaluator is unsure about has no verdict, and gets none when they submit. Repeating a mark adds nothing, so
that a request may be sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from hero.feedback.marks import Asides, Mark
from hero.types import Feedback, ImageId, Verdict
from hero.web.errors import ApiError
from hero.web.messages import Shown, WantedMark
from hero.web.view import RoundView, View

__all__ = ["closing", "following", "require_open", "require_shown"]

_MOST_NAMED = 8


def require_open(view: View, number: int) -> RoundView:
    """The round `number`, if it is the one that is being labelled.

    Raises:
        ApiError: 409, it is not.
    """
    current = view.current
    if current is None:
        raise ApiError(409, "no-round", "No round has begun yet; wait for its first images.")
    if number != current.number:
        message = f"Round {number} is not the current one, which is {current.number}; reload the page."
        raise ApiError(409, "not-current-round", message)
    if current.answer is not None:
        raise ApiError(
            409, "round-over", f"Round {number} is answered, and the run is learning from it; wait for the next one."
        )
    return current


def following(
    round_: RoundView, given: Feedback, asides: Asides, wanted: Iterable[WantedMark], *, evaluation: bool
) -> list[Mark]:
    """The marks to store, in order, when `wanted` is requested on top of `given` and `asides`.

    Raises:
        ApiError: 422, an image is not shown, or a best image is given where none is asked for.
    """
    changes = _Changes(round_, given, asides)
    for place, mark in enumerate(wanted):
        where = f"marks.{place}.image_id"
        if mark.kind == "best":
            if evaluation:
                raise ApiError(
                    422, "no-best-asked", "This evaluation asks only for good or bad.", f"marks.{place}.kind"
                )
            if mark.image_id not in round_.images and mark.image_id not in round_.best:
                raise _unknown(mark.image_id, round_, where)
            changes.best(mark)
        else:
            if mark.image_id not in round_.images:
                raise _unknown(mark.image_id, round_, where)
            changes.apply(mark)
    return changes.marks


def require_shown(given: Feedback, asides: Asides, shown: Shown) -> None:
    """Checks that an evaluator submits what is stored.

    Raises:
        ApiError: 409, other marks are stored than `shown`; the message says how they differ.
    """
    now = dict.fromkeys(asides.unsure, "unsure") | {i: str(verdict) for i, verdict in given.verdicts.items()}
    then = {i: word for word in ("unsure", "bad", "good") for i in getattr(shown, word)}
    changed = [i for i in sorted({*now, *then}) if now.get(i) != then.get(i)]
    words = [f"{i} is {now.get(i, 'unmarked')}, here it was {then.get(i, 'unmarked')}" for i in changed]
    words += [f"{i} is a best one now" for i in given.best if i not in shown.best]
    words += [f"{i} is a best one no more" for i in shown.best if i not in given.best]
    if words:
        more = f"; and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
        message = f"Marks were changed elsewhere: {'; '.join(words[:_MOST_NAMED])}{more}. Look again, then submit."
        raise ApiError(409, "answer-changed", message)


def closing(
    round_: RoundView, given: Feedback, asides: Asides, *, seen_none_good: bool, unseen: Iterable[ImageId] = ()
) -> list[Mark]:
    """The marks that submitting adds: every image that has no verdict, and is not unsure, is bad.

    `unseen` are images that the evaluator never looked at, which is kept beside the verdict.

    Raises:
        ApiError: 409, not all images are drawn, or none is good and the request does not confirm that.
    """
    if not round_.drawn:
        message = f"{len(round_.images)} of {round_.total} images are drawn; submit when all have been drawn."
        raise ApiError(409, "not-fully-drawn", message)
    if not given.good and not seen_none_good:
        message = "No image is marked good; confirm that none is (seen_none_good), or mark one."
        raise ApiError(409, "nothing-good", message)
    rest = [image for image in round_.images if image not in given.verdicts and image not in asides.unsure]
    overlooked = set(unseen)
    return [
        *(Mark(image, "verdict", "bad") for image in rest),
        *(Mark(image, "rest", "unseen" if image in overlooked else "unmarked") for image in rest),
    ]


class _Changes:
    """What an evaluator says as it changes, and the marks that change it."""

    def __init__(self, round_: RoundView, given: Feedback, asides: Asides) -> None:
        self.marks: list[Mark] = []
        self._round = round_
        self._verdicts = {image: str(verdict) for image, verdict in given.verdicts.items()}
        self._bests = set(given.best)
        self._unsure = set(asides.unsure)
        self._reasons = dict(asides.reasons)

    def apply(self, wanted: WantedMark) -> None:
        if wanted.kind == "unsure":
            self._set_unsure(wanted)
        elif wanted.kind == "reason":
            self._set_reason(wanted)
        else:
            self.verdict(wanted)

    def _set_unsure(self, wanted: WantedMark) -> None:
        image = wanted.image_id
        if (image in self._unsure) == (wanted.value is not None):
            return
        if wanted.value is not None and image in self._verdicts:
            del self._verdicts[image]
            self.marks.append(Mark(image, "verdict", None))
            self._withdraw(image)
        self._unsure ^= {image}
        self.marks.append(Mark(image, "unsure", wanted.value, suggested=wanted.suggested, seconds=wanted.seconds))

    def _set_reason(self, wanted: WantedMark) -> None:
        if self._reasons.get(wanted.image_id) != wanted.value:
            self.marks.append(Mark(wanted.image_id, "reason", wanted.value))
            if wanted.value is None:
                del self._reasons[wanted.image_id]
            else:
                self._reasons[wanted.image_id] = wanted.value

    def verdict(self, wanted: WantedMark) -> None:
        image, value = wanted.image_id, wanted.value
        if value is not None:
            self._unsure.discard(image)
        if self._verdicts.get(image) != value:
            self.marks.append(Mark(image, "verdict", value, suggested=wanted.suggested, seconds=wanted.seconds))
            if value is None:
                del self._verdicts[image]
            else:
                self._verdicts[image] = value
        if value != "good":
            self._withdraw(image)

    def best(self, wanted: WantedMark) -> None:
        image = wanted.image_id
        if wanted.value is None:
            self._withdraw(image)
            return
        for rival in self._round.rivals(image):
            self._withdraw(rival)
        if image in self._round.images and self._verdicts.get(image) != Verdict.GOOD:
            self._verdicts[image] = Verdict.GOOD
            self._unsure.discard(image)
            self.marks.append(Mark(image, "verdict", Verdict.GOOD, suggested=wanted.suggested))
        if image not in self._bests:
            self._bests.add(image)
            self.marks.append(Mark(image, "best", "yes", seconds=wanted.seconds))

    def _withdraw(self, image: ImageId) -> None:
        if image in self._bests:
            self._bests.remove(image)
            self.marks.append(Mark(image, "best", None))


def _unknown(image: ImageId, round_: RoundView, where: str) -> ApiError:
    return ApiError(422, "unknown-image", f"{image} is not shown in round {round_.number}; reload the page.", where)
