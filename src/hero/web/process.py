"""Starts the labelling page, `python -m hero.web`, in a separate process; neither imports torch."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from hero.errors import RunError
from hero.web.listening import Listening

__all__ = ["Page", "kept_token", "page_served"]

_READY = "serving "
_TOKEN_FILE = ".web-token"
_PORT_FILE = ".web-port"
_PATIENCE = 5.0


class Page:
    """A page that is being served.

    Attributes:
        address: where to open it, with its token.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process = process
        self.address = address

    def wait(self) -> None:
        """Waits until the server ends, by itself or because somebody stops it."""
        self._process.wait()


@contextmanager
def page_served(desk: Path, store: str | None = None, listening: Listening | None = None) -> Iterator[Page]:
    """Serves the page of `desk` for as long as the context lasts; it also ends when this process is killed.

    The token and the port are kept in the desk's folder, so that a link to the page, and a page that is open, keep
    working when the run goes on.

    Args:
        desk: a run directory, or another folder with a label store and images.
        store: SQLAlchemy URL of the label store, if it is not in the desk's folder.
        listening: where; None: on this machine alone.

    Raises:
        RunError: the server cannot be started; it has printed the reason on stderr.
    """
    listening = listening or Listening()
    port = _usual_port(desk, listening) if listening.port is None else listening.port
    command = [sys.executable, "-m", "hero.web", str(desk), "--host", listening.host, "--until-stdin-closes"]
    command += [] if store is None else ["--store", store]
    command += [] if port is None else ["--port", str(port)]
    command += [word for name in listening.names for word in ("--allow-host", name)]
    command += ["--prefix", listening.prefix] if listening.prefix else []
    command += ["--open"] if listening.browser else []
    environment = {**os.environ, "HERO_WEB_TOKEN": os.environ.get("HERO_WEB_TOKEN") or kept_token(desk)}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C goes to the run, which then ends the page
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith(_READY):
            raise RunError(f"the labelling page of {desk} could not be started (exit status {process.wait()})")
        address = line.removeprefix(_READY).strip()
        _keep(desk / _PORT_FILE, str(urlsplit(address).port))
        yield Page(process, address)
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def kept_token(desk: Path) -> str:
    """The folder's own token; made once, readable by its owner alone."""
    file = desk / _TOKEN_FILE
    with contextlib.suppress(OSError):
        kept = file.read_text(encoding="ascii").strip()
        if kept:
            return kept
    token = secrets.token_urlsafe(32)
    _keep(file, token)
    return token


def _usual_port(desk: Path, listening: Listening) -> int | None:
    """The port that the desk's page had before, if it is free; None: any."""
    with contextlib.suppress(OSError, ValueError):
        port = int((desk / _PORT_FILE).read_text(encoding="ascii"))
        return port if listening.is_free(port) else None
    return None


def _keep(file: Path, words: str) -> None:
    """Writes a file that its owner alone can read; a desk that cannot be written goes without."""
    with contextlib.suppress(OSError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(words)
