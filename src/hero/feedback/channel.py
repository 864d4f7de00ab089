"""The channel between a run and the pages of its evaluators: events out, commands in, both kept in the label store.

A *desk* is a folder with a label store and images that a labelling page serves: a run directory, or the folder of a
blind evaluation. One process, the run, publishes a desk's events; pages send commands. What a page shows is a fold over
the events (`DeskState`): applying an event twice changes nothing, and the newest one of a kind and round wins.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from hero.errors import FeedbackError
from hero.feedback import schema
from hero.feedback.database import now
from hero.feedback.store import LabelStore

__all__ = ["MOST_ROUNDS", "Channel", "Command", "CommandKind", "DeskState", "Event", "EventKind"]

EventKind = Literal[
    "run", "round", "chunk", "suggestions", "phase", "learned", "preview", "answer", "result", "command"
]
CommandKind = Literal["pause", "resume", "stop", "more-rounds", "finish"]

MOST_ROUNDS = 1000
"""Most rounds that one command may add."""

_PAGE = 1000


@dataclass(frozen=True)
class Event:
    """Something that the run did; `round` is 0 where it belongs to none; `body` as documented in docs/runs.md."""

    id: int
    kind: str
    round: int
    body: dict[str, Any]
    created_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "created_at": self.created_at.isoformat()}


@dataclass(frozen=True)
class Command:
    """What an evaluator asks the run to do."""

    id: int
    kind: str
    body: dict[str, Any]
    evaluator: str
    created_at: datetime


@dataclass
class DeskState:
    """The state of a desk after the events so far; see docs/runs.md for what each part holds.

    Attributes:
        desk: an identifier unique to the store, so that a page can tell apart two runs served at one address; None
            before any event.
        run, phase, round: None until there is such an event; `round` is the newest one, with its images so far.
        learned, previews, answers: one entry a round, in order of rounds.
        result: the newest evaluation of the run's model; None without one.
        last_event: id of the newest event; 0 if there is none.
    """

    desk: str | None = None
    run: dict[str, Any] | None = None
    phase: dict[str, Any] | None = None
    round: dict[str, Any] | None = None
    learned: list[dict[str, Any]] = field(default_factory=list)
    previews: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    last_event: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; a copy."""
        return asdict(self)

    def apply(self, event: Event) -> None:
        """Applies one more event; call it in order of ids."""
        self.desk = self.desk or event.created_at.isoformat()
        self.last_event = event.id
        body, round_ = deepcopy(event.body), event.round
        current = self.round if self.round is not None and self.round["round"] == round_ else None
        if event.kind == "run":
            self.run = body
        elif event.kind == "phase":
            self.phase = {"round": round_, **body}
        elif event.kind == "round":
            # A round that begins again (after a kill, say) is shown again: its images are published again.
            self.round = {"drawn": 0, "images": [], "suggestions": None, "best": [], **body, "round": round_}
        elif event.kind == "chunk" and current is not None:
            known = {image["id"] for image in current["images"]}
            current["images"] += [image for image in body["images"] if image["id"] not in known]
            current["drawn"], current["total"] = len(current["images"]), body["total"]
        elif event.kind == "suggestions" and current is not None:
            current["suggestions"] = {**(current["suggestions"] or {}), **body["images"]}
        elif event.kind == "learned":
            self.learned = _with_entry(self.learned, {**body["stats"], "round": round_})
        elif event.kind == "preview":
            self.previews = _with_entry(self.previews, {**body, "round": round_})
        elif event.kind == "answer":
            self.answers = _with_entry(self.answers, {**body, "round": round_})
        elif event.kind == "result":
            self.result = body


def _with_entry(entries: list[dict[str, Any]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """`entries` with `entry` in place of the one of its round, in order of rounds."""
    others = [other for other in entries if other["round"] != entry["round"]]
    return sorted([*others, entry], key=lambda one: int(one["round"]))


class Channel:
    """Events and commands of the desk whose labels are in `store`; safe to use from several threads.

    Raises:
        RunError: from every method, as with those of `LabelStore`.
    """

    def __init__(self, store: LabelStore) -> None:
        self._database = store.database
        self._folded = DeskState()
        self._folding = threading.Lock()

    def publish(self, kind: EventKind, round_: int = 0, body: Mapping[str, Any] | None = None) -> int:
        """Publishes an event to the pages; returns its id. Only the run calls this: one process writes events."""
        values = {"kind": kind, "round": round_, "body": json.dumps(body or {})}
        return self._append(schema.events, values)

    def events(self, after: int = 0) -> list[Event]:
        """The events whose id is larger than `after`, oldest first; at most 1000 of them."""
        return [
            Event(row.id, row.kind, row.round, json.loads(row.body), datetime.fromisoformat(row.created_at))
            for row in self._newer(schema.events, after)
        ]

    def command(self, kind: str, body: Mapping[str, Any] | None = None, evaluator: str = "") -> int:
        """Sends the run a command; returns its id, which the `command` event that answers it contains.

        Raises:
            FeedbackError: there is no such command, or its body does not fit.
        """
        values = dict(body or {})
        if kind not in get_args(CommandKind):
            raise FeedbackError(f"unknown command {kind!r}; known: {', '.join(get_args(CommandKind))}")
        if kind == "more-rounds":
            fits, needed = set(values) == {"rounds"}, 'needs {"rounds": how many}'
        elif kind == "finish":
            fits, needed = values in ({}, {"stay": True}), 'has an empty body, or {"stay": true}'
        else:
            fits, needed = not values, "has an empty body"
        if not fits:
            raise FeedbackError(f"the command {kind} {needed}")
        rounds = values.get("rounds", 1)
        if type(rounds) is not int or not 1 <= rounds <= MOST_ROUNDS:
            raise FeedbackError(f"the command more-rounds: rounds = {rounds!r}; give a number from 1 to {MOST_ROUNDS}")
        return self._append(schema.commands, {"kind": kind, "body": json.dumps(values), "evaluator": evaluator})

    def commands(self, after: int = 0) -> list[Command]:
        """The commands whose id is larger than `after`, oldest first; at most 1000 of them."""
        return [
            Command(row.id, row.kind, json.loads(row.body), row.evaluator, datetime.fromisoformat(row.created_at))
            for row in self._newer(schema.commands, after)
        ]

    def state(self) -> DeskState:
        """The state after all events, as a copy; reads only those that are new since the last call."""
        with self._folding:
            while new := self.events(self._folded.last_event):
                for event in new:
                    self._folded.apply(event)
            return deepcopy(self._folded)

    def _append(self, table: sa.Table, values: Mapping[str, Any]) -> int:
        with self._database.transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":
                # Ids become visible in their order, so that "newer than the last one seen" misses nothing.
                connection.execute(sa.text(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE"))
            inserted = connection.execute(table.insert().values(**values, created_at=now()))
            assert inserted.inserted_primary_key is not None
            return int(inserted.inserted_primary_key[0])

    def _newer(self, table: sa.Table, after: int) -> list[sa.Row[Any]]:
        query = sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(_PAGE)
        with self._database.transaction(write=False) as connection:
            return list(connection.execute(query).all())
