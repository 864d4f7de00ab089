"""Starting and stopping the server of one desk: `serve`, which is what `python -m hero.web` runs."""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from hero.errors import ConfigError
from hero.web.app import create_app
from hero.web.desk import Desk
from hero.web.security import ANY_ADDRESS, Access

__all__ = ["PORT", "serve", "serve_app"]

PORT = 8420
"""The default port; a page that always has the same address keeps what the browser stored for it."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")
_GRACE = 5


def serve(
    desk: Path,
    store_url: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    names: Sequence[str] = (),
    browse: bool = False,
) -> None:
    """Serves `desk` until SIGTERM or SIGINT; prints `serving http://HOST:PORT/?token=T` once, when it is ready.

    Args:
        desk: a run directory, or any folder with a label store and rounds/.
        store_url: SQLAlchemy URL of the label store, if it is not desk/feedback.db.
        host: address to listen on; 0.0.0.0 or :: for all of this machine's.
        port: None: `PORT`, or a free one if that is taken; 0: a free one.
        token: the secret; None: a new one. At least 16 letters, digits, - or _.
        names: other names by which clients may address the server (the Host header).
        browse: also opens the page in a browser.

    Raises:
        ConfigError: the token is too short, or the address or port is not available.
        RunError: there is no such desk, or its store cannot be opened.
    """
    serve_app(
        lambda access: create_app(Desk(desk, store_url), access),
        host=host,
        port=port,
        usual=PORT,
        token=token,
        names=names,
        browse=browse,
    )


def serve_app(
    make: Callable[[Access], FastAPI],
    *,
    host: str,
    port: int | None,
    usual: int,
    token: str | None,
    names: Sequence[str],
    browse: bool,
) -> None:
    """Serves an application as `serve` does; its `state.broadcast` is closed when the server has to stop.

    Args:
        make: makes the application, which checks every request by the access that it is given.
        usual: the port where `port` is None and this one is free.

    Raises:
        ConfigError: as `serve`; and whatever `make` raises.
    """
    token = secrets.token_urlsafe(32) if token is None else token
    if not _TOKEN.fullmatch(token):
        raise ConfigError("the token must have 16 to 200 letters, digits, - or _; leave it out to have one made")
    listener = _listen(host, port, usual)
    try:
        taken = listener.getsockname()[1]
        app = make(Access.of(token, host, taken, names))
        server = _Server(app, f"http://{_printed(host)}:{taken}/?token={token}", browse=browse)
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


def _listen(host: str, port: int | None, usual: int) -> socket.socket:
    """A socket that listens on `host`: on `port`, or on `usual` if that is free, or on any."""
    if port is not None:
        return _bind(host, port)
    try:
        return _bind(host, usual)
    except ConfigError:
        return _bind(host, 0)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --host or --port") from None
    return listener


def _outward_address() -> str:
    """This machine's address in its network; loopback if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: choosing a route is enough
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _printed(host: str) -> str:
    """`host` as a browser can open it."""
    if host in ANY_ADDRESS:
        return _outward_address()
    return f"[{host}]" if ":" in host else host
