"""The frozen feature map behind diversity and drift: colour on a grid and orientation of edges, without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["FEATURE_MAP", "Features", "pixel_features"]

FEATURE_MAP = "hero-pixels-v1"
"""Name of the frozen feature map behind `pixel_features`; figures on different maps cannot be compared."""

_GRID = 16
_EDGE_SIDE = 64
_EDGE_CELLS = 4
_ORIENTATIONS = 8
_FLAT = 0.02

Features = npt.NDArray[np.float64]


def pixel_features(images: Sequence[Image.Image]) -> Features:
    """Features (N, 1680) of PIL images of any size: non-negative rows of unit length, under `FEATURE_MAP`.

    Two halves of equal weight. Colour: the image averaged down to 16×16, each channel value x in [0, 1]
    written as (cos πx/2, sin πx/2), so that equal colours have inner product 1 and opposite ones 0.
    Shape: luminance at 64×64, and per cell of a 4×4 grid a histogram of the gradient's orientation (8 bins
    over 180°, weighted by its magnitude) with one more component for how flat the cell is. It uses no
    network and no randomness.
    """
    if not images:
        return np.zeros((0, 6 * _GRID**2 + (_ORIENTATIONS + 1) * _EDGE_CELLS**2))
    rows = [np.concatenate([_colours(image), _orientations(image)]) for image in images]
    return np.stack(rows) / math.sqrt(2)


def _colours(image: Image.Image) -> Features:
    """(1536,) of unit length."""
    small = image.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX)
    angle = np.asarray(small, dtype=np.float64).ravel() / 255 * (math.pi / 2)
    return np.concatenate([np.cos(angle), np.sin(angle)]) / math.sqrt(angle.size)


def _orientations(image: Image.Image) -> Features:
    """(144,) of unit length."""
    grey = image.convert("L").resize((_EDGE_SIDE, _EDGE_SIDE), Image.Resampling.BOX)
    down, right = np.gradient(np.asarray(grey, dtype=np.float64) / 255)
    magnitude = np.hypot(down, right)
    # Each gradient is shared between the two nearest bins, so that the map is continuous.
    position = (np.arctan2(down, right) % math.pi) / math.pi * _ORIENTATIONS
    lower = np.floor(position).astype(np.int64) % _ORIENTATIONS
    share = position - np.floor(position)
    bins = np.zeros((_EDGE_SIDE, _EDGE_SIDE, _ORIENTATIONS))
    rows, columns = np.indices(lower.shape)
    bins[rows, columns, lower] = magnitude * (1 - share)
    bins[rows, columns, (lower + 1) % _ORIENTATIONS] = magnitude * share
    side = _EDGE_SIDE // _EDGE_CELLS
    cells = bins.reshape(_EDGE_CELLS, side, _EDGE_CELLS, side, _ORIENTATIONS).mean(axis=(1, 3))
    flat = np.full((_EDGE_CELLS, _EDGE_CELLS, 1), _FLAT)
    histograms = np.concatenate([cells, flat], axis=2).reshape(_EDGE_CELLS**2, -1)
    histograms /= np.linalg.norm(histograms, axis=1, keepdims=True)
    return histograms.ravel() / _EDGE_CELLS
