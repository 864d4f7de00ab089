"""A desk: a folder with a label store and images that a labelling page serves, and everything the API does with it.

It is a run directory, or the folder of a blind evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hero import __version__
from hero.errors import FeedbackError, RunError
from hero.feedback.channel import Channel
from hero.feedback.store import Draft, LabelStore, Own
from hero.run.directory import LORA_FILE, REPORT_FILE, STORE_FILE
from hero.web.errors import ApiError
from hero.web.images import Images
from hero.web.labelling import closing, following, require_open, require_shown
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
        self._folder = folder
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
        mine = Mine() if number is None else self.mine(number, evaluator)
        return State(**shown, mine=mine, evaluators=self.progress())

    def progress(self) -> list[EvaluatorProgress]:
        """How far each evaluator of the current round has got."""
        current = self.view.current
        return [] if current is None else self._tally.of(current.number)

    def versions(self) -> tuple[int, dict[str, Any]]:
        """The current round (0: none), and for each of its evaluators a value that differs whenever their answer has
        changed, as of the last call of `progress`."""
        current = self.view.current
        return (0 if current is None else current.number), self._tally.versions()

    def mine(self, number: int, evaluator: str) -> Mine:
        """The answer of `evaluator` to a round as it stands."""
        own = self.store.own(number, evaluator)
        return _mine(own, submitted=own.submitted)

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
        mine = self.mine(number, evaluator)
        verdicts = self._verdicts(number) if mine.submitted or answer is not None else None
        return PastRound(round=number, images=images, best=best, mine=mine, answer=answer, verdicts=verdicts)

    async def mark(self, number: int, evaluator: str, wanted: Sequence[WantedMark]) -> Stored:
        """Stores marks, all or none; on disk when this returns.

        Raises:
            ApiError: they do not fit the images shown, or the round is not open to this evaluator.
        """

        def work(draft: Draft) -> Stored:
            round_ = require_open(self.view, number)
            marks = following(round_, draft.given, draft.asides, wanted, evaluation=self.view.evaluation)
            draft.mark(*marks)
            return Stored(stored=len(marks), mine=_mine(draft, submitted=False))

        return await self._writer.edit(number, evaluator, work)

    async def submit(self, number: int, submission: Submission) -> Submitted:
        """Closes a round for an evaluator; on disk when this returns.

        Raises:
            ApiError: the round cannot be closed yet, is closed already, or holds other marks than the evaluator saw.
        """

        def work(draft: Draft) -> Submitted:
            round_ = require_open(self.view, number)
            if submission.shown is not None:
                require_shown(draft.given, draft.asides, submission.shown)
            marks = closing(
                round_,
                draft.given,
                draft.asides,
                seen_none_good=submission.seen_none_good,
                unseen=submission.unseen,
            )
            draft.mark(*marks)
            draft.submit(submission.seconds)
            given, unsure = draft.given, len(draft.asides.unsure)
            return Submitted(good=len(given.good), bad=len(given.bad), best=list(given.best), unsure=unsure)

        return await self._writer.edit(number, submission.evaluator, work)

    def reopen(self, number: int, evaluator: str) -> Mine:
        """Takes back the submission of `evaluator`; their marks can be changed again.

        Raises:
            ApiError: 409, the round is not the current one, is learnt from already, or they have not submitted it.
        """
        self.view.refresh()
        require_open(self.view, number)
        try:
            self.store.reopen(number, evaluator)
        except FeedbackError as error:
            raise ApiError(409, "not-submitted", f"{error}.") from None
        return self.mine(number, evaluator)

    def report(self) -> Path:
        """The report of the run.

        Raises:
            ApiError: 404, there is none.
        """
        return self._file(REPORT_FILE, "report")

    def lora(self) -> Path:
        """The run's LoRA file, in diffusers' layout.

        Raises:
            ApiError: 404, there is none.
        """
        return self._file(LORA_FILE, "LoRA")

    def _file(self, name: str, what: str) -> Path:
        path = self._folder / name
        if not path.is_file():
            raise ApiError(404, "file-not-found", f"This run has no {what} yet.")
        return path

    def command(self, command: AnyCommand) -> int:
        """Hands a command to the run; returns its id."""
        return self.channel.command(command.kind, command.body.model_dump(exclude_defaults=True), command.evaluator)

    def _verdicts(self, number: int) -> dict[str, dict[Any, int]]:
        """How many of those who submitted marked each image good and bad."""
        counts: dict[str, dict[Any, int]] = {}
        for answer in self.store.submissions(number).values():
            for image, verdict in answer.verdicts.items():
                counts.setdefault(image, {"good": 0, "bad": 0})[str(verdict)] += 1
        return counts


def _mine(own: Own | Draft, *, submitted: bool) -> Mine:
    return Mine.model_validate(
        {
            "marks": {image: str(verdict) for image, verdict in own.given.verdicts.items()},
            "best": list(own.given.best),
            "unsure": list(own.asides.unsure),
            "reasons": dict(own.asides.reasons),
            "submitted": submitted,
            "revision": own.revision,
        }
    )
