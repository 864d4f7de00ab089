"""The label store: every mark that an evaluator ever made, append-only, in SQLite or any SQLAlchemy URL.

A *mark* is one statement about one image; later marks override earlier ones. A *submission* closes a round for one
evaluator, who may reopen it until the run has taken its *answer*, which is what it learns the round from. When a call
returns, its data is on disk (WAL, synchronous=FULL). Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from hero.errors import FeedbackError, RunError
from hero.feedback import schema
from hero.feedback.database import Database, now
from hero.feedback.marks import Asides, Mark, MarkKind, Statement, asides_of, marks_of, replay, withdrawals_of
from hero.types import Answer, Feedback, ImageId

__all__ = ["Draft", "Label", "LabelStore", "LabellingProgress", "Own"]

_PAGE = 1000
_EDITING = 0x4E121  # of PostgreSQL's advisory locks
_labels, _submissions, _answers = schema.labels, schema.submissions, schema.answers
_reopenings = schema.reopenings
_OF_THE_PROCESS = ("phase", "command")
"""Kinds of event."""


@dataclass(frozen=True)
class Label:
    """A stored mark (see `Mark`): its row number, the round (from 1), who made it and when (UTC)."""

    id: int
    round: int
    evaluator: str
    image_id: ImageId
    kind: MarkKind
    value: str | None
    other: ImageId | None
    suggested: str | None
    seconds: float | None
    created_at: datetime


@dataclass(frozen=True)
class LabellingProgress:
    """How far one evaluator has got in a round: images with a verdict, and whether the answer is submitted."""

    name: str
    marked: int
    submitted: bool


@dataclass(frozen=True)
class Own:
    """One evaluator's answer to a round as it stands.

    Attributes:
        given: the feedback that their marks so far amount to.
        asides: what they say beside it.
        submitted: whether the round is closed for them.
        revision: grows with every mark, submission and reopening of theirs.
    """

    given: Feedback
    asides: Asides
    submitted: bool
    revision: int


class Draft:
    """One evaluator's open answer to a round, within one transaction (see `LabelStore.edit`).

    Attributes:
        given: the feedback that the marks so far amount to, including those made here.
        asides: what they say beside it.
        revision: as that of `Own`.
    """

    def __init__(self, connection: sa.Connection, round_: int, evaluator: str) -> None:
        self._connection = connection
        self._round = round_
        self._evaluator = evaluator
        self._statements = _rows(connection, round_, evaluator)
        self._count()

    def mark(self, *marks: Mark) -> None:
        """Adds marks."""
        _insert_marks(self._connection, self._round, self._evaluator, marks)
        self._statements += [(mark.image_id, mark.kind, mark.value, mark.other) for mark in marks]
        self._count()

    def submit(self, seconds: float | None = None) -> None:
        """Closes the round for this evaluator."""
        _insert_submission(self._connection, self._round, self._evaluator, seconds)
        self.revision += 1

    def _count(self) -> None:
        self.given, self.asides = replay(self._statements), asides_of(self._statements)
        self.revision = len(self._statements) + _closings(self._connection, self._round, self._evaluator)


class LabelStore:
    """The labels of a run.

    Args:
        location: path of an SQLite file, created if missing, or an SQLAlchemy URL (anything with "://"). A store of
            an older schema version is upgraded in place; its labels stay as they are.
        busy_seconds: how long to wait for another program that is writing to the SQLite file.
        read_only: does not create, upgrade or write the store, so that it may lie in a read-only folder. An SQLite
            file is read as it is now; labels added later are not seen.

    Attributes:
        database: the database behind it, which also holds events and commands (see `Channel`).

    Raises:
        RunError: the store cannot be opened, is not a label store, or was written by a newer version of hero;
            and from every method: the disk is full, the file is locked or damaged. A call that raises has stored
            nothing, and what was stored before is kept.
    """

    def __init__(
        self, location: str | Path = "feedback.db", *, busy_seconds: float = 30.0, read_only: bool = False
    ) -> None:
        self.database = Database(location, busy_seconds, _answers_from_submissions, read_only=read_only)

    @classmethod
    def check_free(cls, location: str | Path) -> None:
        """Raises RunError if the store there already holds labels: they refer to the images of another run."""
        with cls(location) as store:
            if store.count() or store.submitted_rounds():
                raise RunError(
                    f"the label store {store.database.name} holds the labels of another run; give each run its "
                    "own database with --store"
                )

    # ------------------------------------------------------------------ evaluators write

    @contextmanager
    def edits(self) -> Iterator[Callable[[int, str], Draft]]:
        """A transaction on any number of open answers: nothing read in it changes before it commits, all or nothing.

        Yields a function that opens the draft of a round and an evaluator; it raises FeedbackError if that answer is
        already submitted.
        """
        with self.database.transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_EDITING)))

            def edit(round_: int, evaluator: str) -> Draft:
                _require_open(connection, round_, evaluator)
                return Draft(connection, round_, evaluator)

            yield edit

    @contextmanager
    def edit(self, round_: int, evaluator: str) -> Iterator[Draft]:
        """A transaction on `evaluator`'s open answer.

        Raises:
            FeedbackError: `evaluator` has submitted `round_` already.
        """
        with self.edits() as edit:
            yield edit(round_, evaluator)

    def mark(self, round_: int, evaluator: str, *marks: Mark) -> None:
        """Stores marks as they are made, all of them or none.

        To name another best image, withdraw the old one in the same call.

        Raises:
            FeedbackError: `evaluator` has submitted `round_` already.
        """
        with self.edit(round_, evaluator) as draft:
            draft.mark(*marks)

    def submit(self, round_: int, evaluator: str, seconds: float | None = None) -> None:
        """Closes `round_` for `evaluator`: the marks so far are their answer.

        Raises:
            FeedbackError: `evaluator` has submitted `round_` already.
        """
        with self.edit(round_, evaluator) as draft:
            draft.submit(seconds)

    def reopen(self, round_: int, evaluator: str) -> None:
        """Takes back the submission of `evaluator`: their marks stay and can be changed again; what was bad because it
        was left unmarked is unmarked again.

        Raises:
            FeedbackError: `evaluator` has not submitted `round_`, or the run has taken its answer.
        """
        with self.database.transaction(write=True) as connection:
            if evaluator not in _submitters(connection, round_):
                raise FeedbackError(f"{evaluator!r} has not submitted round {round_}")
            if _answer(connection, round_) is not None:
                raise FeedbackError(f"round {round_} is learnt from already")
            values = {"round": round_, "evaluator": evaluator, "closed": False, "created_at": now()}
            connection.execute(_reopenings.insert().values(values))
            rest = asides_of(_rows(connection, round_, evaluator)).rest
            withdrawn = [mark for i in rest for mark in (Mark(i, "rest", None), Mark(i, "verdict", None))]
            _insert_marks(connection, round_, evaluator, withdrawn)

    # ------------------------------------------------------------------ the run writes

    def record(self, round_: int, feedback: Feedback, evaluator: str, seconds: float) -> None:
        """Stores the answer of an evaluator in this process: marks, submission, and the round's answer if it has none
        yet, in one transaction; on disk when this returns.

        The answer is complete: it withdraws any marks that `evaluator` made in this round before.

        Args:
            round_: from 1.
            feedback: already checked against its batch (`Feedback.check`).
            evaluator: who answered.
            seconds: time that the answer took.

        Raises:
            FeedbackError: `evaluator` has submitted `round_` already, or a score is not finite.
        """
        with self.database.transaction(write=True) as connection:
            _require_open(connection, round_, evaluator)
            earlier = replay(_rows(connection, round_, evaluator))
            _insert_marks(connection, round_, evaluator, [*withdrawals_of(earlier), *marks_of(feedback)])
            _insert_submission(connection, round_, evaluator, seconds)
            if _answer(connection, round_) is None:
                _insert_answer(connection, round_, Answer.of(feedback, evaluator), now())

    def conclude(self, round_: int, answer: Answer) -> None:
        """Stores the answer from which the run learns `round_`, combined from submissions that are already stored.

        Raises:
            RunError: the round already has an answer.
        """
        with self.database.transaction(write=True) as connection:
            if _answer(connection, round_) is not None:
                raise RunError(f"round {round_} already has an answer; resume the run, which learns from it")
            _insert_answer(connection, round_, answer, now())

    # ------------------------------------------------------------------ anyone reads

    def given(self, round_: int, evaluator: str) -> Feedback:
        """What `evaluator` has marked in `round_` so far, submitted or not."""
        with self.database.transaction(write=False) as connection:
            return replay(_rows(connection, round_, evaluator))

    def own(self, round_: int, evaluator: str) -> Own:
        """The answer of `evaluator` to `round_` as it stands."""
        with self.database.transaction(write=False) as connection:
            statements = _rows(connection, round_, evaluator)
            submitted = evaluator in _submitters(connection, round_)
            revision = len(statements) + _closings(connection, round_, evaluator)
        return Own(replay(statements), asides_of(statements), submitted, revision)

    def progress(self, round_: int) -> tuple[LabellingProgress, ...]:
        """How far each evaluator of `round_` has got, by name."""
        with self.database.transaction(write=False) as connection:
            query = sa.select(_labels.c.evaluator).where(_labels.c.round == round_).distinct()
            submitted = set(_submitters(connection, round_))
            names = sorted(submitted.union(connection.execute(query).scalars()))
            marked = {name: len(replay(_rows(connection, round_, name)).verdicts) for name in names}
        return tuple(LabellingProgress(name, marked[name], name in submitted) for name in names)

    def revision(self) -> tuple[int, int, int]:
        """Grows with every mark, submission and reopening: a cheap way to find out whether anything is new."""
        tables = (_labels, _submissions, _reopenings)
        newest = [sa.select(sa.func.coalesce(sa.func.max(table.c.id), 0)) for table in tables]
        with self.database.transaction(write=False) as connection:
            marks, submissions, reopenings = (int(connection.execute(query).scalar_one()) for query in newest)
        return marks, submissions, reopenings

    def submission(self, round_: int, evaluator: str | None = None) -> Feedback | None:
        """What one evaluator submitted for `round_`, in the order marked; None if there is nothing (yet).

        Args:
            round_: from 1.
            evaluator: whose; None: that of whoever submitted first.
        """
        with self.database.transaction(write=False) as connection:
            names = [name for name in _submitters(connection, round_) if evaluator in (None, name)]
            return replay(_rows(connection, round_, names[0])) if names else None

    def submissions(self, round_: int) -> dict[str, Feedback]:
        """What each evaluator submitted for `round_`, in order of submission."""
        with self.database.transaction(write=False) as connection:
            return {name: replay(_rows(connection, round_, name)) for name in _submitters(connection, round_)}

    def submitters(self, round_: int) -> tuple[str, ...]:
        """Who has submitted `round_`, in that order."""
        with self.database.transaction(write=False) as connection:
            return tuple(_submitters(connection, round_))

    def submitted_rounds(self) -> tuple[int, ...]:
        """Rounds that at least one evaluator submitted, ascending."""
        query = sa.select(_submissions.c.round).distinct().order_by(_submissions.c.round)
        with self.database.transaction(write=False) as connection:
            rounds = list(connection.execute(query).scalars())
            return tuple(round_ for round_ in rounds if _submitters(connection, round_))

    def answer(self, round_: int) -> Answer | None:
        """The answer from which the run learns (or has learnt) `round_`; None if there is none yet."""
        with self.database.transaction(write=False) as connection:
            return _answer(connection, round_)

    def labels(self, round_: int | None = None, evaluator: str | None = None, *, after: int = 0) -> Iterator[Label]:
        """Stored marks with ids above `after`, oldest first, overridden ones included; of a round, evaluator, or all.

        Reads in pages, so that a slow consumer locks nothing.
        """
        query = sa.select(_labels).order_by(_labels.c.id).limit(_PAGE)
        if round_ is not None:
            query = query.where(_labels.c.round == round_)
        if evaluator is not None:
            query = query.where(_labels.c.evaluator == evaluator)
        last = after
        while True:
            with self.database.transaction(write=False) as connection:
                page = connection.execute(query.where(_labels.c.id > last)).all()
            for row in page:
                values = row._asdict()
                yield Label(**{**values, "created_at": datetime.fromisoformat(values["created_at"])})
            if len(page) < _PAGE:
                return
            last = page[-1].id

    def count(self, round_: int | None = None) -> int:
        """Number of stored marks of one round, or of all, overridden ones included."""
        query = sa.select(sa.func.count()).select_from(_labels)
        if round_ is not None:
            query = query.where(_labels.c.round == round_)
        with self.database.transaction(write=False) as connection:
            return int(connection.execute(query).scalar_one())

    def copy_rounds(self, other: LabelStore, until: int) -> None:
        """Puts all that was said in rounds up to `until`, and what pages show of them, into `other`, which has nothing,
        as it is; not what was about the process that trained then."""
        for table in (_labels, _submissions, _reopenings, _answers, schema.events):
            query = sa.select(table).where(table.c.round <= until).order_by(table.c.id)
            with self.database.transaction(write=False) as connection:
                rows = [row._asdict() for row in connection.execute(query)]
            rows = [row for row in rows if row.get("kind") not in _OF_THE_PROCESS] if table is schema.events else rows
            if rows:
                with other.database.transaction(write=True) as connection:
                    connection.execute(table.insert(), rows)

    def close(self) -> None:
        """Closes all connections; SQLite then folds its write-ahead log into the file."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_open(connection: sa.Connection, round_: int, evaluator: str) -> None:
    if evaluator in _submitters(connection, round_):
        raise FeedbackError(_already(round_, evaluator))


def _already(round_: int, evaluator: str) -> str:
    return f"{evaluator!r} has already submitted round {round_}; a submitted answer stays as it is"


def _submitters(connection: sa.Connection, round_: int) -> list[str]:
    """Who has submitted, in the order in which they did so first; without those who have reopened the round since."""
    query = sa.select(_submissions.c.evaluator).where(_submissions.c.round == round_)
    names = list(connection.execute(query.order_by(_submissions.c.id)).scalars())
    later = sa.select(_reopenings.c.evaluator, _reopenings.c.closed).where(_reopenings.c.round == round_)
    closed = {row.evaluator: row.closed for row in connection.execute(later.order_by(_reopenings.c.id))}
    return [name for name in names if closed.get(name, True)]


def _closings(connection: sa.Connection, round_: int, evaluator: str) -> int:
    """How often `evaluator` has closed and reopened the round."""
    return sum(
        int(
            connection.execute(
                sa.select(sa.func.count())
                .select_from(table)
                .where(table.c.round == round_, table.c.evaluator == evaluator)
            ).scalar_one()
        )
        for table in (_submissions, _reopenings)
    )


def _insert_submission(connection: sa.Connection, round_: int, evaluator: str, seconds: float | None) -> None:
    values = {"round": round_, "evaluator": evaluator, "seconds": seconds, "created_at": now()}
    mine = (_reopenings.c.round == round_, _reopenings.c.evaluator == evaluator)
    if connection.execute(sa.select(_reopenings.c.id).where(*mine).limit(1)).first() is not None:
        connection.execute(_reopenings.insert().values(**values, closed=True))
        return
    try:
        connection.execute(_submissions.insert().values(values))
    except IntegrityError:
        # Where transactions run side by side, two submissions can both have found the round open.
        raise FeedbackError(_already(round_, evaluator)) from None


def _insert_marks(connection: sa.Connection, round_: int, evaluator: str, marks: Iterable[Mark]) -> None:
    written = now()
    rows = [{"round": round_, "evaluator": evaluator, **vars(mark), "created_at": written} for mark in marks]
    if rows:
        connection.execute(_labels.insert(), rows)


def _rows(connection: sa.Connection, round_: int, evaluator: str) -> list[Statement]:
    query = sa.select(_labels.c.image_id, _labels.c.kind, _labels.c.value, _labels.c.other)
    chosen = query.where(_labels.c.round == round_, _labels.c.evaluator == evaluator)
    return [tuple(row) for row in connection.execute(chosen.order_by(_labels.c.id))]


def _answer(connection: sa.Connection, round_: int) -> Answer | None:
    row = connection.execute(sa.select(_answers).where(_answers.c.round == round_)).one_or_none()
    return None if row is None else Answer.from_dict(json.loads(row.feedback), json.loads(row.evaluators), row.rule)


def _insert_answer(connection: sa.Connection, round_: int, answer: Answer, created_at: str) -> None:
    values = {
        "round": round_,
        "feedback": json.dumps(answer.to_dict()),
        "evaluators": json.dumps(list(answer.evaluators)),
        "rule": answer.rule,
        "created_at": created_at,
    }
    connection.execute(_answers.insert().values(values))


def _answers_from_submissions(connection: sa.Connection) -> None:
    """Upgrade from version 1, in which a run learnt from whoever submitted a round first."""
    query = sa.select(_submissions).order_by(_submissions.c.round, _submissions.c.id)
    first = {row.round: row for row in reversed(connection.execute(query).all())}
    for round_, row in sorted(first.items()):
        feedback = replay(_rows(connection, round_, row.evaluator))
        _insert_answer(connection, round_, Answer.of(feedback, row.evaluator), row.created_at)
