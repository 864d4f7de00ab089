"""The blind desk: base and tuned images of an evaluation under opaque ids, in an order that is a function of the seed.

Nothing in the desk's folder says which set an image is from: not its id, its file, its time or the order. Whoever knows
the seed can work it out again, which is how verdicts are assigned to their sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hero.errors import RunError
from hero.evaluation.result import SETS
from hero.ids import blind_id
from hero.run.finished import FinishedRun
from hero.seeding import Stage, derive_seed
from hero.types import ImageBatch, ImageId

__all__ = ["ROUND_SIZE", "BlindImage", "BlindPlan"]

ROUND_SIZE = 48
"""Most images shown in one round of a blind evaluation."""


@dataclass(frozen=True)
class BlindImage:
    """Image `index` of the set `of`, under its opaque id, e.g. "e0002-i0017"."""

    id: ImageId
    of: str
    index: int
    prompt: str


class BlindPlan:
    """Which image is shown where: all sets of the evaluation in `run`, `images` of each, shuffled together.

    Attributes:
        rounds: the images of each round, in the order shown; their lengths differ by at most one.
        sets: names of the sets, in the order of `SETS`.

    Raises:
        RunError: `run` holds no evaluation with that many images.
    """

    def __init__(self, run: FinishedRun, result: Mapping[str, Any], images: int) -> None:
        self._folder = run.evaluation_folder
        prompts: Sequence[str] = result["details"]["prompts"][:images]
        self.images = images
        self.sets = tuple(name for name in SETS if self._path(name, 0).is_file())
        everything = [(of, index) for of in self.sets for index in range(images)]
        missing = [self._path(*item) for item in everything if not self._path(*item).is_file()]
        if len(prompts) < images or missing or "base" not in self.sets:
            raise RunError(f"{run.path} holds no evaluation of {images} images a set; run `hero evaluate {run.path}`")
        seed = derive_seed(result["details"]["seed"], Stage.BLIND_ORDER, images)
        order = np.random.default_rng(seed).permutation(len(everything))
        parts = np.array_split(order, -(-len(everything) // ROUND_SIZE))
        self.rounds = tuple(
            tuple(
                BlindImage(blind_id(number, place), *everything[int(k)], prompts[everything[int(k)][1]])
                for place, k in enumerate(part)
            )
            for number, part in enumerate(parts, start=1)
        )

    def _path(self, of: str, index: int) -> Path:
        return self._folder / of / f"{index:04d}.png"

    def fingerprint(self) -> str:
        """SHA-256 over the images and prompts in the order shown: two plans with the same one ask the same question."""
        digest = hashlib.sha256()
        for item in (item for round_ in self.rounds for item in round_):
            digest.update(item.id.encode() + item.prompt.encode() + self._path(item.of, item.index).read_bytes())
        return digest.hexdigest()

    def batch(self, round_: int, criterion: str) -> ImageBatch:
        """Round `round_` (from 1) as an evaluator sees it: no best so far, no mention of the sets."""
        shown = self.rounds[round_ - 1]
        pictures = []
        for item in shown:
            with Image.open(self._path(item.of, item.index)) as image:
                pictures.append(image.convert("RGB"))
        ids, prompts = tuple(item.id for item in shown), tuple(item.prompt for item in shown)
        return ImageBatch(round_, ids, tuple(pictures), prompts, (), criterion)

    def sorted_verdicts(self, verdicts: Mapping[ImageId, bool]) -> dict[str, list[bool | None]]:
        """Set → verdict of each of its images in order; None where there is none."""
        marks: dict[str, list[bool | None]] = {name: [None] * self.images for name in self.sets}
        for item in (item for round_ in self.rounds for item in round_):
            marks[item.of][item.index] = verdicts.get(item.id)
        return marks
