"""How far each evaluator of the current round has got, kept up to date by reading only new labels."""

from __future__ import annotations

import threading

from hero.feedback.store import LabelStore
from hero.types import ImageId
from hero.web.messages import EvaluatorProgress

__all__ = ["Tally"]


class Tally:
    """Counts for one round at a time; safe to use from several threads."""

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._round = 0
        self._last = 0
        self._marked: dict[str, set[ImageId]] = {}
        self._newest: dict[str, int] = {}
        self._submitted: set[str] = set()

    def versions(self) -> dict[str, tuple[int, bool]]:
        """For each evaluator their newest mark and whether they have submitted, as of the last call of `of`: something
        that differs once their answer has changed."""
        with self._lock:
            return {name: (self._newest.get(name, 0), name in self._submitted) for name in self._names()}

    def of(self, round_: int) -> list[EvaluatorProgress]:
        """Progress of every evaluator of `round_`, by name."""
        with self._lock:
            if round_ != self._round:
                self._round, self._last, self._marked, self._newest = round_, 0, {}, {}
            for label in self._store.labels(round_, after=self._last):
                self._last = self._newest[label.evaluator] = label.id
                marked = self._marked.setdefault(label.evaluator, set())
                if label.kind == "verdict":
                    (marked.discard if label.value is None else marked.add)(label.image_id)
            self._submitted = set(self._store.submitters(round_))
            return [
                EvaluatorProgress(name=name, marked=len(self._marked.get(name, ())), submitted=name in self._submitted)
                for name in self._names()
            ]

    def _names(self) -> list[str]:
        return sorted(self._submitted | self._marked.keys())
