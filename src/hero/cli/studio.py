"""`hero studio`: one page for all runs of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hero.cli.options import AllowHost, NoBrowser, Prefix, listening_of

__all__ = ["studio"]


def studio(
    runs: Annotated[Path, typer.Option(metavar="DIR", help="The folder of runs; made if need be.")] = Path("runs"),
    models: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder with models that the page may offer. Repeatable."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Where the page listens; any but the default lets other machines see it."),
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(metavar="N", help="Its port; default: 8430 if it is free.")] = None,
    allow_host: AllowHost = None,
    prefix: Prefix = "",
    no_browser: NoBrowser = False,
) -> None:
    """Start, watch, label, compare and download runs in a browser; Ctrl-C closes the page, and what runs goes on."""
    from hero.studio.server import serve_studio

    serve_studio(runs, models or (), listening_of(host, port, no_browser, allow_host, prefix))
