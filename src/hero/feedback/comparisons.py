"""Comparisons of others as labels: pairs and ranks, as data sets of preferences are published. No torch.

Sources of the columns: the cards of the data sets yuvalkirstain/pickapic_v2, ymhao/HPDv2 and THUDM/ImageRewardDB, and
the repositories of HPS and ImageReward. Ranks are smaller for better images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from hero.feedback.collected import Collected, at
from hero.feedback.tables import LabelRow
from hero.types import ImageId

__all__ = ["image_lists", "read_better_worse", "read_pickapic", "read_preferred", "read_rank_lists", "read_ranked_rows"]

_LISTS = ("image_path", "file_path", "generations", "images", "image")
"""Columns under which rows list the images of a prompt, the first that is there."""


def read_pickapic(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """A pair a row: `caption`, `jpg_0`, `jpg_1`, and 1 and 0 (0.5 and 0.5 for neither) in `label_0` and `label_1`."""
    for where, row in rows:
        with at(where):
            if not row.get("has_label", True):
                continue
            sides = [
                found.image(row[f"jpg_{side}"], folder, row["caption"], name=row.get(f"image_{side}_uid"))
                for side in (0, 1)
            ]
            user, labels = row.get("user_id"), [float(row[f"label_{side}"]) for side in (0, 1)]
            if labels[0] != labels[1]:
                winner, loser = sides if labels[0] > labels[1] else reversed(sides)
                found.compare(winner, loser, None if user is None else f"user {user}", row.get("created_at"))


def read_better_worse(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """A pair a row: `prompt`, `img_better`, `img_worse`."""
    for where, row in rows:
        with at(where):
            better, worse = (found.image(row[f"img_{side}"], folder, row["prompt"]) for side in ("better", "worse"))
            found.compare(better, worse)


def read_preferred(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """HPD's choices: `prompt`, a list of images, and `human_preference`: 1 for the preferred and 0, or its index."""
    for where, row in rows:
        with at(where):
            images, chosen = image_lists(row, folder, found), row["human_preference"]
            if isinstance(chosen, int):
                chosen = [int(k == chosen) for k in range(len(images))]
            for (winner, won), (loser, lost) in combinations(_paired(images, chosen), 2):
                if won != lost:
                    found.compare(*((winner, loser) if won > lost else (loser, winner)), row.get("user_hash"))


def read_rank_lists(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """A prompt a row: `prompt`, a list of images, and their places in `rank` or `ranking`."""
    for where, row in rows:
        with at(where):
            ranks = row["rank"] if "rank" in row else row["ranking"]
            _compare_ranks(_paired(image_lists(row, folder, found), ranks), found)


def read_ranked_rows(rows: Sequence[LabelRow], folder: Path, found: Collected) -> None:
    """An image a row: `prompt`, the image, its place `rank` among those of the prompt, perhaps its `overall_rating`."""
    groups: dict[str, list[tuple[ImageId, float]]] = {}
    for where, row in rows:
        with at(where):
            cell = next(row[key] for key in ("image", *_LISTS) if row.get(key) is not None)
            image = found.image(cell, folder, row["prompt"])
            groups.setdefault(str(row.get("prompt_id") or row["prompt"]), []).append((image, float(row["rank"])))
            if row.get("overall_rating") is not None:
                found.mark(image, "score", str(float(row["overall_rating"])))
    for group in groups.values():
        _compare_ranks(group, found)


def image_lists(row: Mapping[str, Any], folder: Path, found: Collected) -> list[ImageId]:
    """The images that a row lists, each found.

    Raises:
        KeyError: it lists none.
    """
    cells = next((row[key] for key in _LISTS if isinstance(row.get(key), list)), None)
    if cells is None:
        raise KeyError(_LISTS[0])
    return [found.image(cell, folder, row["prompt"]) for cell in cells]


def _paired(images: Sequence[ImageId], values: Sequence[Any]) -> list[tuple[ImageId, float]]:
    if len(images) != len(values):
        raise ValueError(f"{len(images)} images, but {len(values)} values for them")
    return [(image, float(value)) for image, value in zip(images, values, strict=True)]


def _compare_ranks(ranked: Iterable[tuple[ImageId, float]], found: Collected) -> None:
    for (first, rank), (second, other) in combinations(ranked, 2):
        if rank != other:
            found.compare(*((first, second) if rank < other else (second, first)))
