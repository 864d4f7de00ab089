"""The registry of scene families: every caption of the tiny world, how often it is seen, and who draws it.

A new family is one new file in this folder and one entry in `SCENE_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from hero.tinyworld.scene import Scene, SceneFamily
from hero.tinyworld.scenes import cats, figures, flowers, hands, narcissus, views

__all__ = ["FAMILY_WEIGHTS", "SCENE_FAMILIES", "caption_weights", "draw_scene", "scene_family_of"]

SCENE_FAMILIES: Mapping[str, SceneFamily] = MappingProxyType(
    {
        "hands": hands,
        "flowers": flowers,
        "figures": figures,
        "cats": cats,
        "narcissus": narcissus,
        "views": views,
    }
)
"""Name -> module."""

# Counting fingers and roses takes the model longer to learn than the other families do.
FAMILY_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {name: 1.3 if name in ("hands", "flowers") else 1.0 for name in SCENE_FAMILIES}
)
"""Name -> how often the family is seen in pretraining, relative to the others."""


def caption_weights() -> dict[str, float]:
    """Caption -> its share of the pretraining scenes, over all families; the shares add up to 1."""
    total = sum(FAMILY_WEIGHTS.values())
    shares: dict[str, float] = {}
    for name, family in SCENE_FAMILIES.items():
        captions = family.captions()
        unit = FAMILY_WEIGHTS[name] / total / sum(captions.values())
        for caption, weight in captions.items():
            if caption in shares:
                raise ValueError(f"caption {caption!r} belongs to two families; a caption needs one owner")
            shares[caption] = weight * unit
    return shares


def scene_family_of(caption: str) -> str:
    """The name of the family that owns `caption`; KeyError for a caption outside the grammar."""
    for name, family in SCENE_FAMILIES.items():
        if caption in family.captions():
            return name
    raise KeyError(f"no scene family has the caption {caption!r}; hero.tinyworld.scenes.caption_weights() lists all")


def draw_scene(caption: str, rng: np.random.Generator, *, success: bool | None = None) -> Scene:
    """A scene of `caption` from its family; `success` forces the outcome of a task's caption."""
    return SCENE_FAMILIES[scene_family_of(caption)].draw(caption, rng, success=success)
