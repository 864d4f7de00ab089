"""Serving the studio until it is stopped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hero.studio.app import create_studio_app
from hero.studio.studio import Studio
from hero.web.listening import Listening
from hero.web.process import kept_token
from hero.web.server import serve_app

__all__ = ["PORT", "serve_studio"]

PORT = 8430
"""The usual port; not that of a run's own page, so that both can be open."""

_TOKEN_VARIABLE = "HERO_STUDIO_TOKEN"


def serve_studio(
    runs: Path,
    models: Sequence[Path] = (),
    listening: Listening | None = None,
) -> None:
    """Serves the studio of the folder `runs` until SIGTERM or SIGINT; prints `serving http://HOST:PORT/?token=T`.

    The token is kept in the folder, so that a link to the page keeps working; $HERO_STUDIO_TOKEN goes before it.

    Args:
        models: folders with models that the page may offer.
        listening: where; the usual port is `PORT`.

    Raises:
        ConfigError: the address is not available, or one of `models` is no folder.
        RunError: another studio serves the folder, or it cannot be used.
    """
    studio = Studio(runs, models)
    token = os.environ.get(_TOKEN_VARIABLE) or kept_token(studio.runs.state)
    try:
        serve_app(lambda access: create_studio_app(studio, access), listening or Listening(), PORT, token)
    finally:
        studio.close()
