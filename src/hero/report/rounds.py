"""The rounds of a run: what was shown, how it was labelled, and how far several evaluators agreed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero.feedback.agreement import Agreement, measure_agreement
from hero.feedback.store import LabelStore
from hero.report.pictures import Picture, fit, thumbnail
from hero.types import Answer, RoundStats, image_id

__all__ = ["Round", "rounds_of"]


@dataclass(frozen=True)
class Round:
    """What was shown in one round, and what it did; `found` images are on disk.

    `answer` is what was learnt from; `agreement` is there where several evaluators judged the same images. Of the
    labels of those who submitted, `suggested` were made while the page showed a suggestion, and `kept` of them say what
    it said; `unmarked` are bad because nobody marked the image, `unseen` of them without its ever having been in view;
    `unsure` have no label. `reasons` are images with the words that were given for them.
    """

    stats: RoundStats
    pictures: tuple[Picture, ...]
    found: int
    answer: Answer | None = None
    agreement: Agreement | None = None
    suggested: int = 0
    kept: int = 0
    unmarked: int = 0
    unseen: int = 0
    unsure: int = 0
    reasons: tuple[tuple[str, str], ...] = ()

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
        rounds.append(Round(figures, tuple(pictures), len(shown), answer, agreed, **_manner(store, figures.round)))
    return rounds


def _manner(store: LabelStore | None, round_: int) -> dict[str, Any]:
    """How the labels of a round came about, over all who submitted it."""
    if store is None:
        return {}
    names = store.submitters(round_)
    last = {
        (label.evaluator, label.image_id): label
        for label in store.labels(round_)
        if label.kind == "verdict" and label.evaluator in names
    }
    verdicts = [label for label in last.values() if label.value is not None and label.suggested is not None]
    asides = {name: store.own(round_, name).asides for name in names}
    rest = [how for said in asides.values() for how in said.rest.values()]
    return {
        "suggested": len(verdicts),
        "kept": sum(label.value == label.suggested for label in verdicts),
        "unmarked": len(rest),
        "unseen": rest.count("unseen"),
        "unsure": sum(len(said.unsure) for said in asides.values()),
        "reasons": tuple(
            (image, f"{words} ({name})" if len(names) > 1 else words)
            for name, said in asides.items()
            for image, words in said.reasons.items()
        ),
    }
