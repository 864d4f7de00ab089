"""The label store: every mark that an evaluator ever made, append-only, in SQLite or any SQLAlchemy URL.

A *mark* is one statement about one image; later marks override earlier ones. A *submission* closes a round
for one evaluator. What a call has returned from is on disk (WAL, synchronous=FULL). Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from hero.errors import FeedbackError, RunError
from hero.types import Feedback, ImageId, Verdict

__all__ = ["SCHEMA_VERSION", "Label", "LabelStore", "Mark"]

SCHEMA_VERSION = 1
_PAGE = 1000
_CHOSEN = "yes"

Kind = Literal["verdict", "best", "score", "pair"]
_Row = tuple[ImageId, Kind, str | None, ImageId | None]
"""(image, kind, value, other) of a stored mark."""


@dataclass(frozen=True)
class Mark:
    """One statement of an evaluator about one image.

    Attributes:
        image_id: the image; the winner of a pair.
        kind: what is stated.
        value: "good" or "bad" for a verdict, a finite number for a score, "yes" for a best image or a pair;
            None withdraws what was stated before.
        other: the loser of a pair, else None.
        suggested: what the evaluator was shown as a suggestion, if anything.
        seconds: time that this mark took, if known.

    Raises:
        FeedbackError: the value does not fit the kind, or `other` is missing or too many.
    """

    image_id: ImageId
    kind: Kind
    value: str | None
    other: ImageId | None = None
    suggested: str | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise FeedbackError(f"mark of {self.image_id}: unknown kind {self.kind!r}; known: {known}")
        if (self.kind == "pair") != (self.other is not None):
            raise FeedbackError(f"mark of {self.image_id}: a pair, and only a pair, names another image")
        if self.value is not None and not _fits(self.kind, self.value):
            raise FeedbackError(f"mark of {self.image_id}: {self.value!r} is no value of a {self.kind}")


def _fits(kind: Kind, value: str) -> bool:
    if kind == "verdict":
        return value in tuple(Verdict)
    if kind == "score":
        try:
            return math.isfinite(float(value))
        except ValueError:
            return False
    return value == _CHOSEN


@dataclass(frozen=True)
class Label:
    """A stored mark (see `Mark`): its row number, the round (from 1), who made it and when (UTC)."""

    id: int
    round: int
    evaluator: str
    image_id: ImageId
    kind: Kind
    value: str | None
    other: ImageId | None
    suggested: str | None
    seconds: float | None
    created_at: datetime


_metadata = sa.MetaData()
# SQLite numbers rows by an INTEGER key only; other databases should not run out at 2³¹.
_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
_labels = sa.Table(
    "labels",
    _metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("evaluator", sa.String, nullable=False),
    sa.Column("image_id", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("value", sa.String),
    sa.Column("other", sa.String),
    sa.Column("suggested", sa.String),
    sa.Column("seconds", sa.Double),
    # ISO 8601 text: the same instant, to the microsecond and with its zone, in every database.
    sa.Column("created_at", sa.String, nullable=False),
    sa.Index("labels_by_round", "round", "evaluator"),
    sqlite_autoincrement=True,
)
_submissions = sa.Table(
    "submissions",
    _metadata,
    sa.Column("id", _Key, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("evaluator", sa.String, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("created_at", sa.String, nullable=False),
    sa.UniqueConstraint("round", "evaluator"),
    sqlite_autoincrement=True,
)


def _refuse(table: sa.Table, operation: str, when: str = "") -> None:
    """Has SQLite refuse `operation` on `table` (where `when` holds), by whatever program."""
    name = f"{table.name}_no_{'replace' if when else operation.lower()}"
    statement = (
        f"CREATE TRIGGER {name} BEFORE {operation} ON {table.name} {when} "
        f"BEGIN SELECT RAISE(ABORT, '{table.name} are append-only'); END"
    )

    def create(_target: sa.Table, connection: sa.Connection, **_: Any) -> None:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(statement)

    event.listen(table, "after_create", create)


for _table in (_labels, _submissions):
    _refuse(_table, "UPDATE")
    _refuse(_table, "DELETE")
# INSERT OR REPLACE deletes the old row without firing its DELETE trigger.
_refuse(_labels, "INSERT", "WHEN EXISTS (SELECT 1 FROM labels WHERE id = NEW.id)")
_refuse(
    _submissions,
    "INSERT",
    "WHEN EXISTS (SELECT 1 FROM submissions WHERE id = NEW.id OR (round = NEW.round AND evaluator = NEW.evaluator))",
)


class LabelStore:
    """The labels of a run.

    Args:
        location: path of an SQLite file, made if it is missing, or an SQLAlchemy URL (anything with "://").
        busy_seconds: how long to wait for another program that is writing to the SQLite file.

    Raises:
        RunError: the store cannot be opened, is no label store, or was written by a newer version of hero;
            and from every method: the disk is full, the file locked or broken. A call that raises stored
            nothing, and what was stored before stays.
    """

    def __init__(self, location: str | Path = "feedback.db", *, busy_seconds: float = 30.0) -> None:
        self._busy_seconds = busy_seconds
        self._engine = _engine(location, busy_seconds)
        self._name = self._engine.url.render_as_string(hide_password=True) if "://" in str(location) else str(location)
        try:
            self._open_schema()
        except BaseException:
            self.close()
            raise

    def mark(self, round_: int, evaluator: str, *marks: Mark) -> None:
        """Stores marks as they are made, all of them or none.

        To name another best image, withdraw the old one in the same call.

        Raises:
            FeedbackError: `evaluator` has submitted `round_` already.
        """
        with self._transaction(write=True) as connection:
            _require_open(connection, round_, evaluator)
            _insert_marks(connection, round_, evaluator, marks)

    def submit(self, round_: int, evaluator: str, seconds: float | None = None) -> None:
        """Closes `round_` for `evaluator`: the marks so far are the answer.

        Raises:
            FeedbackError: `evaluator` has submitted `round_` already.
        """
        with self._transaction(write=True) as connection:
            _require_open(connection, round_, evaluator)
            _insert_submission(connection, round_, evaluator, seconds)

    def record(self, round_: int, feedback: Feedback, evaluator: str, seconds: float) -> None:
        """Stores a whole answer, marks and submission, in one transaction; on disk when this returns.

        An answer says everything: marks that `evaluator` made in this round before are withdrawn by it.

        Args:
            round_: from 1.
            feedback: already checked against its batch (`Feedback.check`).
            evaluator: who answered.
            seconds: time that the answer took.

        Raises:
            FeedbackError: `evaluator` has submitted `round_` already, or a score is not finite.
        """
        with self._transaction(write=True) as connection:
            _require_open(connection, round_, evaluator)
            earlier = _replay(_rows(connection, round_, evaluator))
            _insert_marks(connection, round_, evaluator, [*_withdrawals(earlier), *_marks(feedback)])
            _insert_submission(connection, round_, evaluator, seconds)

    def submission(self, round_: int, evaluator: str | None = None) -> Feedback | None:
        """The answer to `round_` as recorded, in the same order; None if there is none (yet).

        Args:
            round_: from 1.
            evaluator: whose; None: of whoever submitted first.
        """
        query = sa.select(_submissions.c.evaluator).where(_submissions.c.round == round_)
        if evaluator is not None:
            query = query.where(_submissions.c.evaluator == evaluator)
        with self._transaction(write=False) as connection:
            who = connection.execute(query.order_by(_submissions.c.id).limit(1)).scalar_one_or_none()
            return None if who is None else _replay(_rows(connection, round_, who))

    def submitted_rounds(self) -> tuple[int, ...]:
        """Rounds that at least one evaluator submitted, ascending."""
        query = sa.select(_submissions.c.round).distinct().order_by(_submissions.c.round)
        with self._transaction(write=False) as connection:
            return tuple(connection.execute(query).scalars())

    def labels(self, round_: int | None = None, evaluator: str | None = None) -> Iterator[Label]:
        """Stored marks, oldest first, overridden ones too; of one round or evaluator, or of all.

        Reads in pages, so that a slow consumer locks nothing.
        """
        query = sa.select(_labels).order_by(_labels.c.id).limit(_PAGE)
        if round_ is not None:
            query = query.where(_labels.c.round == round_)
        if evaluator is not None:
            query = query.where(_labels.c.evaluator == evaluator)
        last = 0
        while True:
            with self._transaction(write=False) as connection:
                page = connection.execute(query.where(_labels.c.id > last)).all()
            for row in page:
                values = row._asdict()
                yield Label(**{**values, "created_at": datetime.fromisoformat(values["created_at"])})
            if len(page) < _PAGE:
                return
            last = page[-1].id

    def count(self) -> int:
        """Stored marks in all, overridden ones too."""
        with self._transaction(write=False) as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(_labels)).scalar_one())

    def close(self) -> None:
        """Closes all connections; SQLite then folds its write-ahead log into the file."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_schema(self) -> None:
        version = self._version()
        if version is None:
            with self._transaction(write=True) as connection:
                # Asked again: another program may have made the tables while this one waited to write.
                if not sa.inspect(connection).has_table(_meta.name):
                    _metadata.create_all(connection, checkfirst=False)
                    connection.execute(_meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
            version = self._version()
        if version != str(SCHEMA_VERSION):
            raise RunError(
                f"the label store {self._name} has schema version {version}, this version of hero knows "
                f"{SCHEMA_VERSION}: upgrade hero (pip install -U hero-diffusion); the labels are untouched"
            )

    def _version(self) -> str | None:
        """The schema version; None for an empty database."""
        with self._transaction(write=False) as connection:
            tables = sa.inspect(connection)
            if tables.has_table(_meta.name):
                query = sa.select(_meta.c.value).where(_meta.c.key == "schema_version")
                return connection.execute(query).scalar_one_or_none() or "unknown"
            if tables.has_table(_labels.name) or tables.has_table(_submissions.name):
                raise RunError(f"{self._name} is a database, but not a label store; choose another path")
            return None

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        """A transaction, committed at the end; a database error becomes a RunError.

        A writing one takes SQLite's write lock at once, so that what it read cannot change before it writes.
        """
        try:
            with self._engine.connect().execution_options(hero_write=write) as connection, connection.begin():
                yield connection
        except DBAPIError as error:
            raise RunError(self._explain(error, write)) from error

    def _explain(self, error: DBAPIError, write: bool) -> str:
        cause = str(error.orig)
        kept = "nothing was lost: what was stored before is intact"
        if write:
            kept += ", and of this answer nothing was stored"
        if "locked" in cause:
            return (
                f"the label store {self._name} is locked by another program (waited "
                f"{self._busy_seconds:g} s); {kept}. Close that program and try again"
            )
        if "full" in cause:
            return f"no space left for the label store {self._name}; {kept}. Free some space and try again"
        return f"the label store {self._name} cannot be {'written' if write else 'read'} ({cause}); {kept}"


def _engine(location: str | Path, busy_seconds: float) -> sa.Engine:
    try:
        is_url = "://" in str(location)
        url = sa.make_url(str(location)) if is_url else sa.URL.create("sqlite", database=str(location))
        connect_args = {"timeout": busy_seconds} if url.get_backend_name() == "sqlite" else {}
        engine = sa.create_engine(url, connect_args=connect_args)
    except (ArgumentError, ModuleNotFoundError) as error:
        raise RunError(
            f"cannot open the label store: {error}; give a file path, or an SQLAlchemy URL whose driver is installed"
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Python's sqlite3 would begin transactions on its own, and too late; `_begin_sqlite` does it.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("hero_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _require_open(connection: sa.Connection, round_: int, evaluator: str) -> None:
    query = sa.select(_submissions.c.id).where(_submissions.c.round == round_, _submissions.c.evaluator == evaluator)
    if connection.execute(query).first() is not None:
        raise FeedbackError(_already(round_, evaluator))


def _already(round_: int, evaluator: str) -> str:
    return f"{evaluator!r} has already submitted round {round_}; a submitted answer stays as it is"


def _insert_submission(connection: sa.Connection, round_: int, evaluator: str, seconds: float | None) -> None:
    values = {"round": round_, "evaluator": evaluator, "seconds": seconds, "created_at": _now()}
    try:
        connection.execute(_submissions.insert().values(values))
    except IntegrityError:
        # Where transactions run side by side, two submissions can both have found the round open.
        raise FeedbackError(_already(round_, evaluator)) from None


def _insert_marks(connection: sa.Connection, round_: int, evaluator: str, marks: Iterable[Mark]) -> None:
    now = _now()
    rows = [{"round": round_, "evaluator": evaluator, **vars(mark), "created_at": now} for mark in marks]
    if rows:
        connection.execute(_labels.insert(), rows)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _marks(feedback: Feedback) -> list[Mark]:
    return [
        *(Mark(image, "verdict", str(verdict)) for image, verdict in feedback.verdicts.items()),
        *(Mark(image, "best", _CHOSEN) for image in feedback.best),
        *(Mark(image, "score", repr(score)) for image, score in feedback.scores.items()),
        *(Mark(winner, "pair", _CHOSEN, other=loser) for winner, loser in feedback.pairs),
    ]


def _withdrawals(feedback: Feedback) -> list[Mark]:
    return [
        *(Mark(image, "verdict", None) for image in feedback.verdicts),
        *(Mark(image, "best", None) for image in feedback.best),
        *(Mark(image, "score", None) for image in feedback.scores),
        *(Mark(winner, "pair", None, other=loser) for winner, loser in dict.fromkeys(feedback.pairs)),
    ]


def _rows(connection: sa.Connection, round_: int, evaluator: str) -> list[_Row]:
    query = sa.select(_labels.c.image_id, _labels.c.kind, _labels.c.value, _labels.c.other)
    chosen = query.where(_labels.c.round == round_, _labels.c.evaluator == evaluator)
    rows = connection.execute(chosen.order_by(_labels.c.id))
    return [(row.image_id, row.kind, row.value, row.other) for row in rows]


def _replay(rows: Iterable[_Row]) -> Feedback:
    """What marks, oldest first, amount to: the last of an image and kind counts, in order of the first."""
    verdicts: dict[ImageId, str] = {}
    scores: dict[ImageId, float] = {}
    best: dict[ImageId, None] = {}
    pairs: list[tuple[ImageId, ImageId]] = []
    for image, kind, value, other in rows:
        if kind == "verdict":
            _set(verdicts, image, value)
        elif kind == "score":
            _set(scores, image, None if value is None else float(value))
        elif kind == "best":
            _set(best, image, value)
        elif other is not None and value is not None:
            pairs.append((image, other))
        else:
            # A pair may be stated twice, which counts twice; withdrawing it withdraws both.
            pairs = [pair for pair in pairs if pair != (image, other)]
    return Feedback(verdicts, tuple(best), scores, pairs)


def _set(held: dict[ImageId, Any], image: ImageId, value: Any) -> None:
    if value is None:
        held.pop(image, None)
    else:
        held[image] = value
