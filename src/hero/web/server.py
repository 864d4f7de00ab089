"""Starting and stopping the server of one desk: `serve`, which is what `python -m hero.web` runs."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from hero.errors import ConfigError
from hero.web.app import create_app
from hero.web.desk import Desk
from hero.web.listening import PORT, Listening, listen, page_address
from hero.web.security import Access

__all__ = ["serve", "serve_app"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")
_GRACE = 5


def serve(desk: Path, store_url: str | None, listening: Listening, token: str | None = None) -> None:
    """Serves `desk` until SIGTERM or SIGINT; prints `serving http://HOST:PORT/?token=T` once, when it is ready.

    Args:
        desk: a run directory, or any folder with a label store and rounds/.
        store_url: SQLAlchemy URL of the label store, if it is not desk/feedback.db.
        listening: where; without a port on the usual one, or a free one if that is taken.
        token: the secret; None: a new one. At least 16 letters, digits, - or _.

    Raises:
        ConfigError: the token is too short, or the address or port is not available.
        RunError: there is no such desk, or its store cannot be opened.
    """
    serve_app(lambda access: create_app(Desk(desk, store_url), access), listening, PORT, token)


def serve_app(make: Callable[[Access], FastAPI], listening: Listening, usual: int, token: str | None = None) -> None:
    """Serves an application as `serve` does; its `state.broadcast` is closed when the server has to stop.

    Args:
        make: makes the application, which checks every request by the access that it is given.
        usual: the port where `listening` names none and this one is free.

    Raises:
        ConfigError: as `serve`; and whatever `make` raises.
    """
    token = secrets.token_urlsafe(32) if token is None else token
    if not _TOKEN.fullmatch(token):
        raise ConfigError("the token must have 16 to 200 letters, digits, - or _; leave it out to have one made")
    host = listening.host
    listener = listen(host, listening.port, usual)
    try:
        taken = listener.getsockname()[1]
        app = make(Access.of(token, host, taken, listening.names, listening.prefix))
        server = _Server(app, page_address(host, taken, listening.prefix, token), browse=listening.browser)
        # uvicorn raises the signal again once it has shut down, but stopping on request is not a failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """Prints when it is ready, and ends the open event streams when it has to stop."""

    def __init__(self, app: FastAPI, address: str, *, browse: bool) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,  # it would contain the token
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._app = app
        self._address = address
        self._browse = browse
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            print(f"serving {self._address}", flush=True)
            if self._browse:
                self._loop.run_in_executor(None, webbrowser.open, self._address)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None and self.started:
            self._loop.call_soon_threadsafe(self._app.state.broadcast.close)
