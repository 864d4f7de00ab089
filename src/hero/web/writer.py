"""One thread that writes for everyone: requests that wait together share a transaction, and so one wait for the disk.

A request is answered when its transaction is on disk, never before. Twenty people clicking at once therefore wait for
one commit or two, not for twenty; and threads of this process never contend for the store's write lock.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from hero.errors import FeedbackError, RunError
from hero.feedback.store import Draft, LabelStore
from hero.web.errors import ApiError

__all__ = ["Writer"]

_MOST_TOGETHER = 64

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Job:
    round: int
    evaluator: str
    work: Callable[[Draft], Any]
    done: Future[Any]


class Writer:
    """Changes open answers, one transaction after another.

    Args:
        store: the label store.
        before: called in each transaction before its first job, when nobody else can write.
    """

    def __init__(self, store: LabelStore, before: Callable[[], None]) -> None:
        self._store = store
        self._before = before
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hero-web-writer", daemon=True)
        self._thread.start()

    async def edit(self, round_: int, evaluator: str, work: Callable[[Draft], Result]) -> Result:
        """What `work` returns, once what it wrote is on disk.

        `work` first decides and may raise ApiError; then it writes.

        Raises:
            ApiError: `work` refused, or the evaluator has submitted the round (409 already-submitted).
            RunError: the store failed; nothing of this was stored.
        """
        done: Future[Result] = Future()
        self._jobs.put(_Job(round_, evaluator, work, done))
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Finishes what is waiting, then ends."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            together, last = [first], False
            while len(together) < _MOST_TOGETHER and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    last = True
                    break
                together.append(job)
            if jobs := [job for job in together if job.done.set_running_or_notify_cancel()]:
                self._carry_out(jobs)
            if last:
                return

    def _carry_out(self, jobs: list[_Job]) -> None:
        """Answers `jobs` after one transaction for them all."""
        try:
            outcomes = self._commit(jobs)
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, RunError):
                for job in jobs:
                    job.done.set_exception(error)
            else:  # one of them is at fault; retry each alone, so that the others are not affected
                for job in jobs:
                    self._carry_out([job])
            return
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, ApiError):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        """What each job returned or refused with; on disk."""
        outcomes: list[Any] = []
        with self._store.edits() as edit:
            self._before()
            for job in jobs:
                try:
                    outcomes.append(job.work(_open(edit, job)))
                except ApiError as refusal:  # raised before the job wrote anything
                    outcomes.append(refusal)
        return outcomes


def _open(edit: Callable[[int, str], Draft], job: _Job) -> Draft:
    try:
        return edit(job.round, job.evaluator)
    except FeedbackError as error:
        raise ApiError(409, "already-submitted", f"{error}.") from None
