"""Progress of long steps: each stage of the loop reports it to whoever watches the run."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["OnImages", "OnStep", "ignore"]

OnStep = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, total steps). It may block; an exception in it interrupts the stage."""

OnImages = Callable[[int, int], None]
"""Called with (images drawn so far, images in all)."""


def ignore(what: str, done: int, total: int) -> None:
    """For when nobody is watching."""
