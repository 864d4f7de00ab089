"""The rounds of a run: what was shown, how it was labelled, and how far several evaluators agreed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hero.feedback.agreement import Agreement, measure_agreement
from hero.feedback.store import LabelStore
from hero.report.pictures import Picture, fit, thumbnail
from hero.types import Answer, RoundStats, image_id

__all__ = ["Round", "rounds_of"]


@dataclass(frozen=True)
class Round:
    """What was shown in one round, and what it did; `found` images are on disk.

    `answer` is what was learnt from; `agreement` is there where several evaluators judged the same images.
    """

    stats: RoundStats
    pictures: tuple[Picture, ...]
    found: int
    answer: Answer | None = None
    agreement: Agreement | None = None

    @property
    def good_share(self) -> float | None:
        judged = self.stats.good + self.stats.bad
        return self.stats.good / judged if judged else None

    @property
    def kept_best(self) -> list[str]:
        """Ids of the best images so far that an earlier round showed."""
        start = image_id(self.stats.round, 0).partition("-")[0]
        return [best for best in self.stats.best if not best.startswith(start)]

    @property
    def seconds(self) -> float:
        return self.stats.seconds


def rounds_of(folder: Path, stats: Sequence[RoundStats], store: LabelStore | None) -> list[Round]:
    """Every round with its images, small enough that all of them fit into the file."""
    paths = {s.round: sorted((folder / "rounds" / f"{s.round:04d}" / "images").glob("r*.png")) for s in stats}
    side, quality, per_round = fit([p for found in paths.values() for p in found], len(paths))
    rounds = []
    for figures in stats:
        answer = store.answer(figures.round) if store else None
        agreed = measure_agreement(store.submissions(figures.round)) if store else None
        shown = paths[figures.round]
        pictures = [thumbnail(path, figures, answer, side, quality) for path in shown[:per_round]]
        rounds.append(Round(figures, tuple(pictures), len(shown), answer, agreed))
    return rounds
