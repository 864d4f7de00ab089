"""A desk: a folder with a label store and images that a labelling page serves, and everything the API does with it.

It is a run directory, or the folder of a blind evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hero import __version__
from hero.errors import RunError
from hero.feedback.channel import Channel
from hero.feedback.store import Draft, LabelStore
from hero.run.directory import STORE_FILE
from hero.types import Feedback
from hero.web.errors import ApiError
from hero.web.images import Images
from hero.web.labelling import closing, following, require_open
from hero.web.messages import (
    AnyCommand,
    EvaluatorProgress,
    Health,
    Image,
    Mine,
    PastRound,
    State,
    Stored,
    Submission,
    Submitted,
    WantedMark,
)
from hero.web.tally import Tally
from hero.web.view import View
from hero.web.writer import Writer

__all__ = ["Desk"]


class Desk:
    """What the routes call.

    Args:
        folder: a run directory, or any folder with `rounds/NNNN/images/ID.png`.
        store: SQLAlchemy URL of its label store, if that is not `folder/feedback.db`.

    Raises:
        RunError: there is no such folder, or the store cannot be opened.
    """

    def __init__(self, folder: Path, store: str | None = None) -> None:
        if not folder.is_dir():
            raise RunError(f"{folder} is not a folder; give a run directory, or a folder that holds rounds/")
        self.store = LabelStore(store or folder / STORE_FILE)
        self.channel = Channel(self.store)
        self.view = View(self.store)
        self.images = Images(folder, self.view.knows)
        self._tally = Tally(self.store)
        self._writer = Writer(self.store, self.view.refresh)
        self.view.refresh()

    def close(self) -> None:
        """Writes what is waiting to be written, and closes the store."""
        self._writer.close()
        self.images.pool.shutdown(cancel_futures=True)
        self.store.close()

    def health(self) -> Health:
        """Checks that the store answers."""
        self.view.refresh()
        return Health(version=__version__)

    def state(self, evaluator: str) -> State:
        """Everything that the page shows to `evaluator`."""
        self.view.refresh()
        with self.view.lock:
            shown = self.view.state.to_dict()
            current = self.view.current
            number = None if current is None else current.number
        mine = Mine() if number is None else self._mine(number, evaluator)
        return State(**shown, mine=mine, evaluators=self.progress())

    def progress(self) -> list[EvaluatorProgress]:
        """How far each evaluator of the current round has got."""
        current = self.view.current
        return [] if current is None else self._tally.of(current.number)

    def past(self, number: int, evaluator: str) -> PastRound:
        """One round, as `evaluator` may see it.

        Raises:
            ApiError: 404, no such round.
        """
        self.view.refresh()
        with self.view.lock:
            if number not in self.view.rounds:
                raise ApiError(404, "round-not-found", f"There is no round {number} yet on this desk.")
            shown = self.view.rounds[number]
            images = [Image(id=image, prompt=prompt) for image, prompt in shown.images.items()]
            best = [Image(id=image, prompt=prompt) for image, prompt in shown.best.items()]
            answer = shown.answer
        mine = self._mine(number, evaluator)
        verdicts = self._verdicts(number) if mine.submitted or answer is not None else None
        return PastRound(round=number, images=images, best=best, mine=mine, answer=answer, verdicts=verdicts)

    async def mark(self, number: int, evaluator: str, wanted: Sequence[WantedMark]) -> Stored:
        """Stores marks, all or none; on disk when this returns.

        Raises:
            ApiError: they do not fit the images shown, or the round is not open to this evaluator.
        """

        def work(draft: Draft) -> Stored:
            round_ = require_open(self.view, number)
            marks = following(round_, draft.given, wanted, evaluation=self.view.evaluation)
            draft.mark(*marks)
            return Stored(stored=len(marks), mine=_mine(draft.given, submitted=False))

        return await self._writer.edit(number, evaluator, work)

    async def submit(self, number: int, submission: Submission) -> Submitted:
        """Closes a round for an evaluator; on disk when this returns.

        Raises:
            ApiError: the round cannot be closed yet, or is closed already.
        """

        def work(draft: Draft) -> Submitted:
            round_ = require_open(self.view, number)
            marks = closing(round_, draft.given, seen_none_good=submission.seen_none_good)
            draft.mark(*marks)
            draft.submit(submission.seconds)
            given = draft.given
            return Submitted(good=len(given.good), bad=len(given.bad), best=list(given.best))

        return await self._writer.edit(number, submission.evaluator, work)

    def command(self, command: AnyCommand) -> int:
        """Hands a command to the run; returns its id."""
        return self.channel.command(command.kind, command.body.model_dump(), command.evaluator)

    def _mine(self, number: int, evaluator: str) -> Mine:
        submitted = evaluator in self.store.submitters(number)
        return _mine(self.store.given(number, evaluator), submitted=submitted)

    def _verdicts(self, number: int) -> dict[str, dict[Any, int]]:
        """How many of those who submitted marked each image good and bad."""
        counts: dict[str, dict[Any, int]] = {}
        for answer in self.store.submissions(number).values():
            for image, verdict in answer.verdicts.items():
                counts.setdefault(image, {"good": 0, "bad": 0})[str(verdict)] += 1
        return counts


def _mine(given: Feedback, *, submitted: bool) -> Mine:
    marks = {image: str(verdict) for image, verdict in given.verdicts.items()}
    return Mine.model_validate({"marks": marks, "best": list(given.best), "submitted": submitted})
