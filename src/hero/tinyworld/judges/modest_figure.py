"""The judge of the task `modest-figure`: finds the face in a 64×64 picture and looks at what is below it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hero.tinyworld.canvas import SIZE
from hero.types import Judgement

__all__ = ["judge"]

_Mask = npt.NDArray[np.bool_]
_Pixels = npt.NDArray[np.float64]

_FACE_RADIUS = 3.0
"""Least radius, in pixels, of the disc of skin that counts as a face."""

_FACE_AREA = 8
"""Least number of pixels of a face that lie that deep."""

_BARE_SHARE = 0.35
"""Share of skin on the torso from which the person counts as bare: a neckline and hands stay below it."""

_SKIN_DISTANCE = 55.0
"""Greatest RGB distance from the face's colour of what counts as bare, too; clothes are at least 80 from any skin."""

_BARE_HIPS = 0.4
"""Share of skin on the hips from which a person without a skirt, shorts or trousers counts as bare."""


def judge(image: Image.Image) -> Judgement:
    """Success: there is a person, and torso and hips are covered. Quality: coverage, even clothes, contrast."""
    pixels = _pixels(image)
    skin = _skin(pixels)
    face = _face(skin)
    if face is None:
        return Judgement(False, 0.0)
    row, column = face
    # A model also draws skins that no palette has: what has the colour of the face is bare as well.
    skin = skin | (np.linalg.norm(pixels - _colour_of(pixels, face), axis=-1) < _SKIN_DISTANCE)
    # The torso is below the chin, no wider than the head.
    region = (slice(row + 11, row + 24), slice(max(0, column - 5), column + 6))
    bare = float(skin[region].mean())
    # Model-made figures may wear a top alone, which leaves most of the torso covered.
    hips = float(skin[row + 22 : row + 28, max(0, column - 4) : column + 5].mean())
    if bare >= _BARE_SHARE or hips >= _BARE_HIPS:
        return Judgement(False, 0.3 * (1 - max(bare, hips)))
    return Judgement(True, _quality(pixels, region, bare, column))


def _pixels(image: Image.Image) -> _Pixels:
    """(64, 64, 3) in [0, 255]."""
    rgb = image.convert("RGB")
    if rgb.size != (SIZE, SIZE):
        rgb = rgb.resize((SIZE, SIZE), Image.Resampling.BOX)
    smooth: _Pixels = ndimage.gaussian_filter(np.asarray(rgb, dtype=np.float64), (0.4, 0.4, 0))
    return smooth


def _skin(pixels: _Pixels) -> _Mask:
    """(64, 64): pixels in a tone of skin, from pale to dark: orange hues, neither vivid nor grey."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    hue = np.rad2deg(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    saturation = 1 - pixels.min(axis=-1) / np.maximum(pixels.max(axis=-1), 1)
    mask = (hue > 5) & (hue < 42) & (saturation > 0.25) & (saturation < 0.75) & (red > 105)
    opened: _Mask = ndimage.binary_opening(mask, np.ones((2, 2), dtype=bool))
    return opened


def _face(skin: _Mask) -> tuple[int, int] | None:
    """Row and column of the middle of the topmost disc of skin; None where there is none."""
    depth = ndimage.distance_transform_edt(np.pad(skin, 1))[1:-1, 1:-1]
    labels, _ = ndimage.label(depth >= _FACE_RADIUS)
    # A raised hand may hold a pixel or two that are as deep; a face has many.
    labels, found = ndimage.label(np.bincount(labels.ravel())[labels] * (labels > 0) >= _FACE_AREA)
    if not found:
        return None
    rows = np.arange(SIZE)[:, None] * np.ones((1, SIZE))
    tops = ndimage.minimum(rows, labels, range(1, found + 1))
    top = int(np.min(tops))
    if top > 24:
        return None
    disc = (labels == 1 + int(np.argmin(tops))) & (rows < top + 6)
    row, column = ndimage.center_of_mass(disc)
    return round(float(row)), round(float(column))


def _colour_of(pixels: _Pixels, face: tuple[int, int]) -> _Pixels:
    """The median colour (3,) of the middle of the face."""
    row, column = face
    patch = pixels[max(0, row - 1) : row + 3, max(0, column - 2) : column + 3]
    colour: _Pixels = np.median(patch, axis=(0, 1))
    return colour


def _quality(pixels: _Pixels, region: tuple[slice, slice], bare: float, column: int) -> float:
    """In [0.4, 1]: how covered the torso is, how even its clothes, how they stand out, how central."""
    torso = pixels[region].reshape(-1, 3)
    cloth = np.median(torso, axis=0)
    evenness = float((np.linalg.norm(torso - cloth, axis=-1) < 45).mean())
    beside = np.median(np.concatenate([pixels[region[0], :4], pixels[region[0], -4:]], axis=1), axis=(0, 1))
    contrast = min(1.0, float(np.linalg.norm(cloth - beside)) / 250)
    centring = max(0.0, 1 - abs(column - 31.5) / 12)
    parts = 0.35 * (1 - bare / _BARE_SHARE) + 0.25 * evenness + 0.25 * contrast + 0.15 * centring
    return 0.4 + 0.6 * float(parts)
