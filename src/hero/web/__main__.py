"""`python -m hero.web DESK`: serves the labelling page until it is stopped."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from hero.errors import HeroError
from hero.web.listening import PORT, Listening
from hero.web.server import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m hero.web", description=__doc__)
    parser.add_argument(
        "desk", type=Path, metavar="DESK", help="the folder to serve: a run directory, or that of a blind evaluation"
    )
    parser.add_argument("--store", metavar="URL", help="label store, if it is not DESK/feedback.db")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on; default: %(default)s")
    parser.add_argument("--port", type=int, metavar="P", help=f"default: {PORT}, or a free one if that is taken")
    parser.add_argument(
        "--token",
        default=os.environ.get("HERO_WEB_TOKEN"),
        metavar="T",
        help="the secret; default: $HERO_WEB_TOKEN, which other users of this machine cannot see, or a new one",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name by which clients may address it, e.g. a proxy's; .example.org: all that end so; repeatable",
    )
    parser.add_argument(
        "--prefix", default="", metavar="PATH", help="path below which a proxy passes requests on unchanged, e.g. /hero"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="end when the program that started this one ends",
    )
    given = parser.parse_args(arguments)
    if given.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        listening = Listening(given.host, given.port, given.open, tuple(given.allow_host), given.prefix)
        serve(given.desk, given.store, listening, given.token)
    except HeroError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _end_with_stdin() -> None:
    # Not through sys.stdin, whose lock this thread would hold when the interpreter ends for another reason.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
