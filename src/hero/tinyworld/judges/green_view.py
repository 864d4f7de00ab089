"""Judge of `green-view`: the landscape is green, not brown, grey or snow.

Needs no window: neither walls, seats nor skies of the tiny world are green, so the green share decides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hero.tinyworld.canvas import SIZE
from hero.types import Judgement

__all__ = ["judge"]

_MIN_SHARE = 0.16
"""Least share of green pixels in the middle of the picture."""


def judge(image: Image.Image) -> Judgement:
    """Whether `image` (any size, any mode) shows a green landscape, and how green it is."""
    picture = image.convert("RGB")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    # Smoothed, so that speckles of noise do not count as grass.
    rgb: npt.NDArray[np.float64] = ndimage.gaussian_filter(np.asarray(picture, dtype=np.float64), (2, 2, 0))
    middle = rgb[12:54, 8:56]
    excess = middle[..., 1] - np.maximum(middle[..., 0], middle[..., 2])
    green = excess > 18
    share = float(green.mean())
    if share < _MIN_SHARE:
        return Judgement(False, 0.3 * share / _MIN_SHARE)
    richness = float(np.clip(np.median(excess[green]) / 80, 0, 1))
    return Judgement(True, float(np.clip(0.3 + 0.7 * (0.5 * min(1.0, share / 0.6) + 0.5 * richness), 0, 1)))
