"""Marks and images of a file of labels, as they are found in it, whatever its format. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hero.errors import ConfigError, FeedbackError
from hero.feedback.importing import ImportedLabels, ImportedMark, ImportedPicture, NamesOfImages, find_image
from hero.feedback.marks import Mark, MarkKind
from hero.types import ImageId

__all__ = ["ANONYMOUS", "Collected", "at", "verdicts_of"]

ANONYMOUS = "imported"
"""The evaluator of marks whose own is not known, and of those that follow from others'."""


class Collected:
    """Marks and images as they are found.

    Args:
        prompt: that of images which have none of their own; None: there is none.
    """

    def __init__(self, prompt: str | None = None) -> None:
        self._prompt = prompt
        self._marks: list[ImportedMark] = []
        self._pairs: list[tuple[ImageId, ImageId]] = []
        self._images: dict[ImageId, ImportedPicture] = {}
        self._prompts: dict[ImageId, str] = {}
        self._names = NamesOfImages()
        self._now = datetime.now(UTC).isoformat(timespec="microseconds")

    def image(self, cell: Any, folder: Path, prompt: Any, name: Any = None) -> ImageId:
        """The id of an image under a prompt, the same each time.

        Args:
            cell: the image's address, its file's bytes, or `path` and `bytes` as in the columns of `datasets`.
            folder: where addresses start.
            prompt: None or empty for the one that all have.
            name: what it is called; None: by its address or, for bytes, by their digest.

        Raises:
            ConfigError: it has no prompt.
            FeedbackError: there is no such image, or another one was called the same.
        """
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(data, bytes):
            picture: ImportedPicture = data
            name = name or hashlib.sha256(data).hexdigest()[:16]
        else:
            address = str(cell["path"] if isinstance(cell, dict) else cell)
            picture, name = find_image(folder, address), name or address
        wanted = str(prompt) if prompt else self._prompt
        if wanted is None:
            shown = name if isinstance(picture, bytes) else picture
            raise ConfigError(f"{shown} has no prompt of its own; give --prompt TEXT")
        image = self._names.of(None, name, wanted)
        if self._images.setdefault(image, picture) != picture:
            raise FeedbackError(f"two images are called {image}; import their files apart, or give them other names")
        self._prompts[image] = wanted
        return image

    def mark(
        self,
        image: ImageId,
        kind: MarkKind,
        value: str,
        evaluator: Any = None,
        *,
        other: ImageId | None = None,
        round_: int = 0,
        created_at: Any = None,
    ) -> None:
        """A statement of `evaluator`, or of nobody known, at `created_at` (a time, ISO 8601, or None for now).

        Raises:
            FeedbackError: see `Mark`.
        """
        when = created_at
        if isinstance(created_at, datetime):
            when = created_at.replace(tzinfo=created_at.tzinfo or UTC).isoformat(timespec="microseconds")
        said = Mark(image, kind, value, other=other)
        who = ANONYMOUS if evaluator is None else str(evaluator)
        self._marks.append(ImportedMark(round_, who, said, str(when or self._now)))

    def compare(self, winner: ImageId, loser: ImageId, evaluator: Any = None, created_at: Any = None) -> None:
        """`evaluator` prefers one image to another of the same prompt."""
        self.mark(winner, "pair", "yes", evaluator, other=loser, created_at=created_at)
        self._pairs.append((winner, loser))

    def labels(self, source: Path) -> ImportedLabels:
        """All of it; images that were compared get the verdicts that `verdicts_of` says.

        Raises:
            FeedbackError: there is no mark.
        """
        verdicts, best = verdicts_of(self._pairs, self._prompts)
        for image, verdict in verdicts.items():
            self.mark(image, "verdict", verdict)
        for image in best:
            self.mark(image, "best", "yes")
        if not self._marks:
            raise FeedbackError(f"{source} holds no label")
        return ImportedLabels(tuple(self._marks), (), {}, self._images, self._prompts)


def verdicts_of(
    pairs: Iterable[tuple[ImageId, ImageId]], prompt_of: Mapping[ImageId, str]
) -> tuple[dict[ImageId, str], list[ImageId]]:
    """What comparisons amount to: a verdict for each image in them, and the best image of each prompt.

    An image is good if it won at least as often as it lost, else bad; the best is the good one of its prompt whose wins
    exceed its losses by most, the first of several.

    Args:
        pairs: (winner, loser), as often as it was said.
    """
    balance: Counter[ImageId] = Counter()
    for winner, loser in pairs:
        balance[winner] += 1
        balance[loser] -= 1
    best: dict[str, ImageId] = {}
    for image, score in balance.items():
        if score >= 0 and (prompt_of[image] not in best or score > balance[best[prompt_of[image]]]):
            best[prompt_of[image]] = image
    return {image: "good" if score >= 0 else "bad" for image, score in balance.items()}, list(best.values())


@contextmanager
def at(where: str) -> Iterator[None]:
    """Errors in a row say where it stands."""
    try:
        yield
    except FeedbackError as error:
        raise FeedbackError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise FeedbackError(f"{where}: {what}") from None
