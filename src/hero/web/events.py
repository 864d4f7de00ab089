"""Server-sent events: the store is polled a few times a second, once for all open pages."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from hero.errors import RunError
from hero.feedback.channel import Event
from hero.web.desk import Desk

__all__ = ["Broadcast"]

_POLL = 0.2
"""Seconds between two checks of the store."""

_HEARTBEAT = 15.0
_MOST_KEPT = 1000
"""How many of the newest events are kept in memory; a page that is further behind gets them from the store."""

_log = logging.getLogger("hero.web")


class Broadcast:
    """Follows a desk and informs every open page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._pages = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._closed = False
        # Every event with an id above `_complete_from`, up to `_seen`, as it is sent.
        self._recent: deque[tuple[int, str]] = deque()
        self._complete_from = self._seen = desk.view.state.last_event
        self._progress: list[dict[str, Any]] = []
        self._versions: tuple[int, dict[str, Any]] = (0, {})

    async def run(self) -> None:
        """Checks for new events while any page is open; until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                changed = await asyncio.to_thread(self._check)
            except RunError as error:  # the next check may succeed
                _log.warning("%s", error)
            else:
                if changed:
                    self._wake()
            await asyncio.sleep(_POLL)

    def close(self) -> None:
        """Ends every stream, so that the server can stop."""
        self._closed = True
        self._wake()

    async def follow(self, after: int, evaluator: str | None = None) -> AsyncIterator[str]:
        """What is sent to one page: events newer than `after`, then everything that happens; and the answer of
        `evaluator`, whenever it has changed, in this window or another."""
        self._pages += 1
        self._wanted.set()
        sent: list[dict[str, Any]] | None = None
        known: Any = None
        try:
            yield "retry: 1000\n\n"
            while not self._closed:
                changed = self._changed  # taken before checking, so that nothing is missed in between
                while missed := await self._since(after):
                    yield "".join(text for _, text in missed)
                    after = missed[-1][0]
                if sent != self._progress:
                    sent = self._progress
                    yield f"event: evaluators\ndata: {json.dumps({'evaluators': sent})}\n\n"
                number, versions = self._versions
                if evaluator in versions and known != (number, versions[evaluator]):
                    known = (number, versions[evaluator])
                    mine = await asyncio.to_thread(self._desk.mine, number, evaluator)
                    yield f"event: mine\ndata: {json.dumps({'round': number, 'mine': mine.model_dump()})}\n\n"
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        await changed.wait()
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self._pages -= 1
            if not self._pages:
                self._wanted.clear()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _since(self, after: int) -> list[tuple[int, str]]:
        if after >= self._complete_from:
            return [one for one in self._recent if one[0] > after]
        return [(event.id, _text(event)) for event in await asyncio.to_thread(self._desk.channel.events, after)]

    def _check(self) -> bool:
        """Takes in what is new; returns whether there was anything."""
        before = self._seen
        while new := self._desk.channel.events(self._seen):
            self._recent.extend((event.id, _text(event)) for event in new)
            self._seen = new[-1].id
        while len(self._recent) > _MOST_KEPT:
            self._complete_from = self._recent[0][0]
            self._recent.popleft()
        self._desk.view.refresh()
        progress = [one.model_dump() for one in self._desk.progress()]
        versions = self._desk.versions()
        changed = progress != self._progress or versions != self._versions or self._seen != before
        self._progress, self._versions = progress, versions
        return changed


def _text(event: Event) -> str:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.to_dict())}\n\n"
