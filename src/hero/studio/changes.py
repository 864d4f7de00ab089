"""What has changed, told to every open page: the folder is looked at about once a second while a page is open."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable

from hero.errors import HeroError

__all__ = ["Changes"]

_LOOK = 1.0
_SHARE = 0.01
"""Looking takes about this share of one processor at most, however many runs there are..."""
_LONGEST = 5.0
"""...unless that meant to wait longer than this."""
_HEARTBEAT = 15.0

_log = logging.getLogger("hero.studio")


class Changes:
    """Follows a text that changes whenever something does.

    Args:
        traces: gives that text; called in a thread.
        also_close: called when the streams have to end.
    """

    def __init__(self, traces: Callable[[], str], also_close: Callable[[], None]) -> None:
        self._traces = traces
        self._also_close = also_close
        self._pages = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._closed = False
        self._seen = ""

    async def run(self) -> None:
        """Looks for changes while any page is open; until cancelled."""
        while True:
            await self._wanted.wait()
            began = time.monotonic()
            try:
                seen = await asyncio.to_thread(self._traces)
            except (OSError, HeroError) as error:  # the next look may succeed
                _log.warning("%s", error)
            else:
                if seen != self._seen:
                    self._seen = seen
                    self._wake()
            await asyncio.sleep(max(_LOOK, min(_LONGEST, (time.monotonic() - began) / _SHARE)))

    def close(self) -> None:
        """Ends every stream, so that the server can stop."""
        self._closed = True
        self._also_close()
        self._wake()

    async def follow(self) -> AsyncIterator[str]:
        """What is sent to one page: an event `changed` at once, and whenever something changes."""
        self._pages += 1
        self._wanted.set()
        sent = None
        try:
            yield "retry: 1000\n\n"
            while not self._closed:
                changed = self._changed  # taken before comparing, so that nothing is missed in between
                if self._seen and sent != self._seen:
                    sent = self._seen
                    yield f"event: changed\ndata: {json.dumps(sent)}\n\n"
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
