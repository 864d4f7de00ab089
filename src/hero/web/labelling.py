"""The rules of labelling: which marks follow from a request, and what submitting adds. Nothing is stored here.

Each prompt has at most one best image; the best is good; an image that is bad or unmarked is not the best. Repeating a
mark adds nothing, so that a request may be sent twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from hero.feedback.marks import Mark
from hero.types import Feedback, ImageId, Verdict
from hero.web.errors import ApiError
from hero.web.messages import WantedMark
from hero.web.view import RoundView, View

__all__ = ["closing", "following", "require_open"]


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


def following(round_: RoundView, given: Feedback, wanted: Iterable[WantedMark], *, evaluation: bool) -> list[Mark]:
    """The marks to store, in order, when `wanted` is requested on top of `given`.

    Raises:
        ApiError: 422, an image is not shown, or a best image is given where none is asked for.
    """
    changes = _Changes(round_, given)
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
            changes.verdict(mark)
    return changes.marks


def closing(round_: RoundView, given: Feedback, *, seen_none_good: bool) -> list[Mark]:
    """The marks that submitting adds: every image without a verdict is bad.

    Raises:
        ApiError: 409, not all images are drawn, or none is good and the request does not confirm that.
    """
    if not round_.drawn:
        message = f"{len(round_.images)} of {round_.total} images are drawn; submit when all have been drawn."
        raise ApiError(409, "not-fully-drawn", message)
    if not given.good and not seen_none_good:
        message = "No image is marked good; confirm that none is (seen_none_good), or mark one."
        raise ApiError(409, "nothing-good", message)
    return [Mark(image, "verdict", "bad") for image in round_.images if image not in given.verdicts]


class _Changes:
    """Verdicts and bests as they change, and the marks that change them."""

    def __init__(self, round_: RoundView, given: Feedback) -> None:
        self.marks: list[Mark] = []
        self._round = round_
        self._verdicts = {image: str(verdict) for image, verdict in given.verdicts.items()}
        self._bests = set(given.best)

    def verdict(self, wanted: WantedMark) -> None:
        image, value = wanted.image_id, wanted.value
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
