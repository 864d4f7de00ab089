"""Progress of what takes long: told by each stage of the road, heard by whoever watches the run."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["OnImages", "OnStep", "ignore"]

OnStep = Callable[[str, int, int], None]
"""Told (what is done, steps done, steps in all); may wait, and whatever it raises interrupts the stage."""

OnImages = Callable[[int, int], None]
"""Told (images drawn so far, images in all)."""


def ignore(what: str, done: int, total: int) -> None:
    """Nobody watches."""
