"""The tables of the label store, schema version 3: all but `meta` are append-only, which the database enforces.

Times are ISO 8601 text: the same instant, to the microsecond and with its zone, in every database.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

__all__ = [
    "ADDED_IN",
    "SCHEMA_VERSION",
    "answers",
    "commands",
    "events",
    "labels",
    "meta",
    "metadata",
    "reopenings",
    "submissions",
]

SCHEMA_VERSION = 3

metadata = sa.MetaData()
# SQLite autoincrements only an INTEGER key; other databases should not run out of ids at 2³¹.
_Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _table(name: str, *rest: sa.schema.SchemaItem) -> sa.Table:
    """An append-only table with a running number and the time at which each row was written."""
    key = sa.Column("id", _Key, primary_key=True)
    created_at = sa.Column("created_at", sa.String, nullable=False)
    return sa.Table(name, metadata, key, *rest, created_at, sqlite_autoincrement=True)


meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
labels = _table(
    "labels",
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("evaluator", sa.String, nullable=False),
    sa.Column("image_id", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("value", sa.String),
    sa.Column("other", sa.String),
    sa.Column("suggested", sa.String),
    sa.Column("seconds", sa.Double),
    sa.Index("labels_by_round", "round", "evaluator"),
)
submissions = _table(
    "submissions",
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("evaluator", sa.String, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.UniqueConstraint("round", "evaluator"),
)
answers = _table(
    "answers",
    sa.Column("round", sa.Integer, nullable=False, unique=True),
    sa.Column("feedback", sa.Text, nullable=False),
    sa.Column("evaluators", sa.Text, nullable=False),
    sa.Column("rule", sa.String, nullable=False),
)
events = _table(
    "events",
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
commands = _table(
    "commands",
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("evaluator", sa.String, nullable=False),
)
reopenings = _table(
    "reopenings",
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("evaluator", sa.String, nullable=False),
    sa.Column("closed", sa.Boolean, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Index("reopenings_by_round", "round", "evaluator"),
)
"""Submissions that were taken back (not `closed`) and made again (`closed`); the last of an evaluator counts. The row
in `submissions` stays: it says when they submitted first."""

ADDED_IN = {2: (answers, events, commands), 3: (reopenings,)}
"""Version → the tables that it added to those of the one before."""


def _refuse_in_sqlite(table: sa.Table, operation: str, when: str = "") -> None:
    """Makes SQLite refuse `operation` on `table` (where `when` holds), from any program."""
    name = f"{table.name}_no_{'replace' if when else operation.lower()}"
    statement = (
        f"CREATE TRIGGER {name} BEFORE {operation} ON {table.name} {when} "
        f"BEGIN SELECT RAISE(ABORT, '{table.name} are append-only'); END"
    )

    def create(_target: sa.Table, connection: sa.Connection, **_: Any) -> None:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(statement)

    event.listen(table, "after_create", create)


def _refuse_in_postgresql(table: sa.Table) -> None:
    function = (
        "CREATE OR REPLACE FUNCTION hero_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% are append-only', TG_TABLE_NAME; END $$"
    )
    trigger = (
        f"CREATE TRIGGER {table.name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table.name} "
        "FOR EACH STATEMENT EXECUTE FUNCTION hero_append_only()"
    )

    def create(_target: sa.Table, connection: sa.Connection, **_: Any) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text(function))
            connection.execute(sa.text(trigger))

    event.listen(table, "after_create", create)


# INSERT OR REPLACE deletes the old row without firing its DELETE trigger.
_SAME_ROW = {
    labels: "id = NEW.id",
    submissions: "id = NEW.id OR (round = NEW.round AND evaluator = NEW.evaluator)",
    answers: "id = NEW.id OR round = NEW.round",
    events: "id = NEW.id",
    commands: "id = NEW.id",
    reopenings: "id = NEW.id",
}
for _one, _same in _SAME_ROW.items():
    _refuse_in_sqlite(_one, "UPDATE")
    _refuse_in_sqlite(_one, "DELETE")
    _refuse_in_sqlite(_one, "INSERT", f"WHEN EXISTS (SELECT 1 FROM {_one.name} WHERE {_same})")
    _refuse_in_postgresql(_one)
