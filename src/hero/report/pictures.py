"""Images as the page embeds them: small JPEGs within a budget, each with its description."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hero.errors import RunError
from hero.types import Feedback, RoundStats

__all__ = ["Pair", "Picture", "data_uri", "fit", "open_image", "thumbnail"]

_ROUND_IMAGES_BYTES = 4_500_000
_THUMBNAILS = ((112, 85), (96, 80), (72, 75), (56, 70), (40, 60))
"""(side in pixels, JPEG quality), tried from the best until the images of all rounds fit."""


@dataclass(frozen=True)
class Picture:
    """One embedded image. `verdict` is "good", "bad" or "" (unknown)."""

    src: str
    alt: str
    verdict: str = ""
    best: bool = False


@dataclass(frozen=True)
class Pair:
    """The same prompt and noises, before and after."""

    prompt: str
    before: Picture
    after: Picture


def open_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise RunError(f"the image {path} cannot be read ({error}); remove it or restore it") from None


def data_uri(image: Image.Image, side: int, quality: int) -> str:
    """`image` as a JPEG data URI, scaled down to fit a square of `side` pixels (never up)."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def fit(paths: Sequence[Path], rounds: int) -> tuple[int, int, int]:
    """(side, quality, images per round) under which the thumbnails of all rounds stay within their budget."""
    if not paths:
        return *_THUMBNAILS[0], 0
    sample = [open_image(path) for path in paths[:: max(1, len(paths) // 12)]]
    size = 0.0
    for side, quality in _THUMBNAILS:
        size = sum(len(data_uri(image, side, quality)) for image in sample) / len(sample)
        if size * len(paths) <= _ROUND_IMAGES_BYTES:
            return side, quality, len(paths)
    return *_THUMBNAILS[-1], max(1, int(_ROUND_IMAGES_BYTES / size / rounds))


def thumbnail(path: Path, stats: RoundStats, feedback: Feedback | None, side: int, quality: int) -> Picture:
    name = path.stem
    verdict = str(feedback.verdicts.get(name, "")) if feedback else ""
    best = name in stats.best
    description = ", ".join(filter(None, [f"marked {verdict}" if verdict else "no verdict", "best" if best else ""]))
    return Picture(data_uri(open_image(path), side, quality), f"image {name}, {description}", verdict, best)
