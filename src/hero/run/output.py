"""What a command writes for the user: complete or not at all, and never over a file that is there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from hero.errors import RunError

__all__ = ["check_free", "new_output"]


@contextmanager
def new_output(out: str | Path, beside: Sequence[str] = (), *, last: str = "") -> Iterator[Path]:
    """Gives a place to fill; what is made there lies at `out` once all is done, and nothing does if it fails.

    Args:
        out: a folder, new or empty, which may be the one where the user is; with `beside` a file that is not there.
        beside: endings of the files that may be made beside a file, in place of its own.
        last: the name of a folder's file that readers look for first, so that it comes last.

    Raises:
        RunError: something is there that would be overwritten, or `out` cannot be written.
    """
    check_free(out, beside)
    target = Path(os.path.abspath(out))  # of a name even for `.` and `..`
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
            made = Path(place) / target.name
            if not beside:
                made.mkdir()
            yield made
            check_free(out, beside)
            if beside:
                for file in sorted(made.parent.iterdir(), key=lambda file: file == made):
                    file.rename(target.with_name(file.name))
            elif target.is_dir():  # kept, since it may be where the user is
                for file in sorted(made.iterdir(), key=lambda file: file.name == last):
                    file.rename(target / file.name)
            else:
                made.rename(target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"cannot write {out}: {reason}; choose another --out") from error


def check_free(out: str | Path, beside: Sequence[str] = ()) -> None:
    """Checks that `new_output` would overwrite nothing.

    Raises:
        RunError: it would, or `out` cannot be looked at.
    """
    target = Path(os.path.abspath(out))
    try:
        if not beside:
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise RunError(f"{out} exists and is not an empty folder; choose another --out")
            return
        for file in (target, *(target.with_suffix(ending) for ending in beside)):
            if file.exists() or file.is_symlink():
                named = out if file == target else Path(out).with_name(file.name)
                raise RunError(f"{named} exists; choose another --out")
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror}; choose another --out") from error
