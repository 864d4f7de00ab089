"""The database behind the label store: opening it, its schema version, durable transactions, errors in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError

from hero.errors import RunError
from hero.feedback import schema
from hero.feedback.snapshot import snapshot

__all__ = ["Database", "now"]

Upgrade = Callable[[sa.Connection], None]
"""Fills the tables that version 2 added, from those of version 1."""


class Database:
    """An SQLite file or any SQLAlchemy URL, with the tables of `schema`; created, or upgraded in place, if need be.

    Args:
        location: path of an SQLite file, or an SQLAlchemy URL (anything with "://").
        busy_seconds: how long to wait for another program that is writing to the SQLite file.
        upgrade: called, within the transaction that upgrades a store of version 1, after the new tables are made.
        read_only: does not create, upgrade or write it; an SQLite file is read as it is now, from a copy in memory.

    Raises:
        RunError: it cannot be opened, is not a label store, or was written by a newer version of hero.
    """

    def __init__(self, location: str | Path, busy_seconds: float, upgrade: Upgrade, *, read_only: bool = False) -> None:
        self._busy_seconds = busy_seconds
        url = _url(location)
        self.name = url.render_as_string(hide_password=True) if "://" in str(location) else str(location)
        self._engine = _engine(url, busy_seconds, read_only)
        self._read_only = False
        try:
            if read_only and self._engine.dialect.name != "sqlite":
                self._require_current(self._version())
            else:  # a copy in memory may be upgraded
                self._open_schema(upgrade)
        except BaseException:
            self.close()
            raise
        self._read_only = read_only

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        """A transaction, committed at the end; a database error becomes a RunError.

        A writing one takes SQLite's write lock at once, so that what it read cannot change before it writes.
        """
        if write and self._read_only:
            raise RunError(f"the label store {self.name} was opened read-only; nothing was stored")
        try:
            with self._engine.connect().execution_options(hero_write=write) as connection, connection.begin():
                yield connection
        except DBAPIError as error:
            raise RunError(self._explain(error, write)) from error

    def close(self) -> None:
        """Closes all connections; SQLite then folds its write-ahead log into the file."""
        self._engine.dispose()

    def _open_schema(self, upgrade: Upgrade) -> None:
        version = self._version()
        if version is None or version in _OLDER:
            with self.transaction(write=True) as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x4E120)))
                # Checked again: another program may have made the tables while this one waited to write.
                version = _version_of(connection)
                if version is None:
                    schema.metadata.create_all(connection, checkfirst=False)
                    connection.execute(schema.meta.insert().values(key="schema_version", value=_CURRENT))
                elif version in _OLDER:
                    added = [
                        table for since, tables in schema.ADDED_IN.items() if since > int(version) for table in tables
                    ]
                    schema.metadata.create_all(connection, tables=added, checkfirst=False)
                    if version == "1":
                        upgrade(connection)
                    mine = schema.meta.c.key == "schema_version"
                    connection.execute(schema.meta.update().where(mine).values(value=_CURRENT))
            version = self._version()
        self._require_current(version)

    def _require_current(self, version: str | None) -> None:
        if version == _CURRENT:
            return
        if version is None:
            raise RunError(f"{self.name} is not a label store yet: it is created when its run begins")
        if version in _OLDER:
            raise RunError(
                f"the label store {self.name} has schema version {version}; `hero resume` of its run upgrades it"
            )
        raise RunError(
            f"the label store {self.name} has schema version {version}; this version of hero knows "
            f"{_CURRENT}: upgrade hero (pip install -U hero-diffusion); the labels are untouched"
        )

    def _version(self) -> str | None:
        """The schema version; None for an empty database."""
        with self.transaction(write=False) as connection:
            tables = sa.inspect(connection)
            version = _version_of(connection)
            if version is None and any(tables.has_table(table.name) for table in (schema.labels, schema.submissions)):
                raise RunError(f"{self.name} is a database, but not a label store; choose another path")
            return version

    def _explain(self, error: DBAPIError, write: bool) -> str:
        cause = str(error.orig)
        kept = "nothing was lost: what was stored before is intact"
        if write:
            kept += ", and of this answer nothing was stored"
        if "locked" in cause:
            return (
                f"the label store {self.name} is locked by another program (waited "
                f"{self._busy_seconds:g} s); {kept}. Close that program and try again"
            )
        if "full" in cause:
            return f"no space left for the label store {self.name}; {kept}. Free some space and try again"
        return f"the label store {self.name} cannot be {'written' if write else 'read'} ({cause}); {kept}"


def now() -> str:
    """This instant as it is stored."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


_CURRENT = str(schema.SCHEMA_VERSION)
_OLDER = tuple(str(version) for version in range(1, schema.SCHEMA_VERSION))


def _version_of(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(schema.meta.name):
        return None
    query = sa.select(schema.meta.c.value).where(schema.meta.c.key == "schema_version")
    return connection.execute(query).scalar_one_or_none() or "unknown"


def _url(location: str | Path) -> sa.URL:
    try:
        url = sa.make_url(str(location)) if "://" in str(location) else sa.URL.create("sqlite", database=str(location))
    except ArgumentError as error:
        raise _cannot_open(error) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")  # the driver that hero installs
    return url


def _engine(url: sa.URL, busy_seconds: float, read_only: bool) -> sa.Engine:
    try:
        if url.get_backend_name() != "sqlite":  # a server may be restarted while an evaluator is thinking
            options = {"execution_options": {"postgresql_readonly": True}} if read_only else {}
            return sa.create_engine(url, pool_pre_ping=True, **options)
        if read_only:
            copy = snapshot(Path(url.database or ""))
            engine = sa.create_engine("sqlite://", creator=lambda: copy, poolclass=sa.StaticPool)
        else:
            engine = sa.create_engine(url, connect_args={"timeout": busy_seconds})
    except (ArgumentError, ModuleNotFoundError) as error:
        raise _cannot_open(error) from None
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _cannot_open(error: Exception) -> RunError:
    return RunError(
        f"cannot open the label store: {error}; give a file path, or an SQLAlchemy URL whose driver is installed"
    )


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # Python's sqlite3 would begin transactions by itself, and too late; `_begin_sqlite` does it instead.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("hero_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
