"""The queue: runs that wait for their turn on this machine, in a file, so that a restart forgets none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from hero.errors import RunError
from hero.run.finished import read_json
from hero.studio.job import write_atomically

__all__ = ["Queue", "Waiting"]


@dataclass(frozen=True)
class Waiting:
    """A run that waits, and the rounds that it shall have in all; None: as many as it is set to."""

    run: str
    rounds: int | None = None


class Queue:
    """What waits, first come first served, kept in `file`; safe to use from several threads.

    Raises:
        RunError: the file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.RLock()
        kept = read_json(file) or {}
        try:
            self._waiting = [Waiting(**one) for one in kept.get("waiting", [])]
        except TypeError as error:
            raise RunError(f"{file} cannot be read ({error}); remove it: only the order of waiting is lost") from None

    @property
    def waiting(self) -> list[Waiting]:
        """What waits, the next one first; a copy."""
        with self._lock:
            return list(self._waiting)

    def place(self, run: str) -> int | None:
        """Which place `run` has, from 1; None if it does not wait."""
        names = [one.run for one in self.waiting]
        return names.index(run) + 1 if run in names else None

    def add(self, run: str, rounds: int | None = None) -> None:
        """Puts `run` at the end; one that waits already keeps its place."""
        with self._lock:
            new = Waiting(run, rounds)
            known = run in [one.run for one in self._waiting]
            self._keep([new if one.run == run else one for one in self._waiting] + ([] if known else [new]))

    def remove(self, run: str) -> None:
        """Takes `run` out, if it waits."""
        with self._lock:
            self._keep([one for one in self._waiting if one.run != run])

    def rename(self, run: str, new: str) -> None:
        """Follows a run to its new name."""
        with self._lock:
            self._keep([Waiting(new, one.rounds) if one.run == run else one for one in self._waiting])

    def order(self, names: Iterable[str]) -> None:
        """Puts those of `names` that wait into this order, before the others."""
        with self._lock:
            known = {one.run: one for one in self._waiting}
            first = [known.pop(name) for name in dict.fromkeys(names) if name in known]
            self._keep([*first, *known.values()])

    def _keep(self, waiting: list[Waiting]) -> None:
        """Raises RunError if it cannot be written; nothing has changed then."""
        if waiting == self._waiting:
            return
        try:
            write_atomically(self._file, json.dumps({"waiting": [asdict(one) for one in waiting]}, indent=1))
        except OSError as error:
            raise RunError(f"cannot write {self._file}: {error.strerror}") from error
        self._waiting = waiting
