"""What a scene is, and the contract that every scene family fulfils.

A *family* (`scenes/hands.py`, `scenes/flowers.py`, ...) owns some captions and draws a picture for each. What a
caption asks for and what is drawn differ on purpose: the share of pictures that do what the caption of a task
asks is set in `mixture.py`, so that the pretrained model is as imperfect as a real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Fact", "Scene", "SceneFamily"]

Fact = str | int | float | bool


@dataclass(frozen=True)
class Scene:
    """One drawn picture and what is true of it.

    Attributes:
        image: (64, 64, 3) uint8 RGB.
        caption: the text that the model sees with it.
        facts: what the renderer drew, e.g. {"fingers": 4, "torn": False}; the ground truth for the judges.
    """

    image: np.ndarray
    caption: str
    facts: Mapping[str, Fact]


class SceneFamily(Protocol):
    """A module of `hero.tinyworld.scenes`.

    captions: caption -> weight (how often it is seen in pretraining, relative to the family's others).
    draw: a scene of `caption`, drawn from the mixture behind it; every draw from `rng`. `success`
        forces the outcome for the family's task captions (None: as the mixture says).
    succeeds: ground truth: whether a scene with `facts` is a success of `task`.
    """

    def captions(self) -> Mapping[str, float]: ...

    def draw(self, caption: str, rng: np.random.Generator, *, success: bool | None = None) -> Scene: ...

    def succeeds(self, task: str, facts: Mapping[str, Fact]) -> bool: ...
