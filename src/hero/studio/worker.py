"""`python -m hero.studio.worker FOLDER ARGUMENT...`: the command line, run as the job in FOLDER."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hero.studio.job import begun, ended

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status, which is on disk by then."""
    folder, *command = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a studio in the background ignores it, and its children
    begun(Path(folder))
    status = 1
    try:
        status = _run(command)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        ended(Path(folder), status)
    return status


def _run(command: Sequence[str]) -> int:
    from hero.cli import app

    try:
        app(list(command), prog_name="hero")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
