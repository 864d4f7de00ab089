"""Image ids, formatted and parsed only here, and which prompt an image is drawn for.

Image 12 of round 3 is always "r0003-i0012". Previews after a round and the images of a blind evaluation have ids of the
same form with another first letter, so that no two images of a run share one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hero.errors import FeedbackError

__all__ = [
    "LARGEST",
    "ImageId",
    "blind_id",
    "image_id",
    "index_of",
    "preview_id",
    "prompt_index_of",
    "prompts_in_turn",
    "round_of",
    "round_of_turn",
    "turn_of",
]

ImageId = str

LARGEST = 9999
"""Largest round and largest index that fit into an id."""

_FORM = re.compile(r"[rpe](\d{4})-i(\d{4})")


def image_id(round_: int, index: int) -> ImageId:
    """The id of image `index` (from 0) of round `round_` (from 1; 0: imported), e.g. "r0003-i0012"."""
    return _formatted("r", round_, index)


def preview_id(round_: int, index: int) -> ImageId:
    """The id of preview `index` after round `round_` (0: before the first), e.g. "p0003-i0001"."""
    return _formatted("p", round_, index)


def blind_id(round_: int, place: int) -> ImageId:
    """The id of the image at `place` in round `round_` of a blind evaluation, e.g. "e0001-i0007"."""
    return _formatted("e", round_, place)


def round_of(image: ImageId) -> int:
    """The round in an id. Raises FeedbackError if `image` is not an id."""
    return _parsed(image)[0]


def index_of(image: ImageId) -> int:
    """The index in an id. Raises FeedbackError if `image` is not an id."""
    return _parsed(image)[1]


def turn_of(round_: int, part: int = 0) -> int:
    """A number for part `part` of a round: the round itself for the labelled images, 0, and one of its own for each
    part of practice, from 1."""
    return part * (LARGEST + 1) + round_


def round_of_turn(turn: int) -> int:
    """The round in a number from `turn_of`."""
    return turn % (LARGEST + 1)


def prompt_index_of(index: int, prompts: int) -> int:
    """Which of a run's `prompts` prompts image `index` of any round is drawn for: they take turns."""
    return index % prompts


def prompts_in_turn(prompts: Sequence[str], n: int) -> list[str]:
    """The prompts of images 0 to n − 1."""
    return [prompts[prompt_index_of(i, len(prompts))] for i in range(n)]


def _formatted(letter: str, round_: int, index: int) -> ImageId:
    if not (0 <= round_ <= LARGEST and 0 <= index <= LARGEST):
        raise ValueError(f"image {index} of round {round_} has no id: both must lie between 0 and {LARGEST}")
    return f"{letter}{round_:04d}-i{index:04d}"


def _parsed(image: ImageId) -> tuple[int, int]:
    found = _FORM.fullmatch(image)
    if found is None:
        raise FeedbackError(f"{image!r} is not an image id; ids look like r0003-i0012")
    return int(found[1]), int(found[2])
