"""What a scene and a judgement are, and the contract that every scene family fulfils.

A *family* (`scenes/hands.py`, `scenes/flowers.py`, ...) owns some captions and draws a picture for each. What a
caption asks for and what is drawn differ on purpose: the share of pictures that do what the caption of a task
asks is set in `mixture.py`, so that the pretrained model is as imperfect as a real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

__all__ = ["Fact", "Family", "Judge", "Judgement", "Scene"]

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


@dataclass(frozen=True)
class Judgement:
    """A judge's answer.

    Attributes:
        success: whether the picture shows what the task asks for.
        quality: in [0, 1], how well; among successes a simulated evaluator picks its best by it.
    """

    success: bool
    quality: float


class Judge(Protocol):
    """Plain image analysis that decides a task's success, written without looking at the model."""

    def __call__(self, image: Image.Image) -> Judgement: ...


class Family(Protocol):
    """A module of `hero.tinyworld.scenes`.

    captions: caption -> weight (how often it is seen in pretraining, relative to the family's others).
    draw: a scene of `caption`, drawn from the mixture behind it; every draw from `rng`. `success`
        forces the outcome for the family's task captions (None: as the mixture says).
    succeeds: ground truth: whether a scene with `facts` is a success of `task`.
    """

    def captions(self) -> Mapping[str, float]: ...

    def draw(self, caption: str, rng: np.random.Generator, *, success: bool | None = None) -> Scene: ...

    def succeeds(self, task: str, facts: Mapping[str, Fact]) -> bool: ...
