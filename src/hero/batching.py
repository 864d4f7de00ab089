"""Micro-batches: consecutive tuples of one size, and a smaller size when memory runs out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

import torch

from hero.errors import TrainingError

__all__ = ["batched", "halved"]

_Item = TypeVar("_Item")


def batched(items: Iterable[_Item], size: int) -> list[tuple[_Item, ...]]:
    """Consecutive tuples of `size`, the last one maybe shorter (itertools.batched needs Python 3.12)."""
    iterator = iter(items)
    return list(iter(lambda: tuple(islice(iterator, size)), ()))


def halved(size: int, setting: str) -> int:
    """Half of `size`, a micro-batch that did not fit into memory; also frees what the failed attempt left behind.

    Args:
        setting: the setting that the size came from, for the error message.

    Raises:
        TrainingError: even a single item was too large.
    """
    if size <= 1:
        raise TrainingError(
            f"out of memory with {setting} = 1; try model.dtype bfloat16, model.gradient_checkpointing, "
            "model.offload, model.vae_slicing, or smaller sampling.height and width; `hero doctor --model` says which "
            "of them make it fit; the last checkpoint is intact"
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2
