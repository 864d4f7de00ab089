"""The newest LoRA of a run under way, in the folder from which another program takes its LoRAs."""

from __future__ import annotations

from contextlib import suppress
from glob import escape
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hero.errors import ConfigError
from hero.export import FORMATS, export

__all__ = ["Publisher"]

_FORMAT = "kohya"


class Publisher:
    """Writes `<run>-r<round>.safetensors`, in kohya's layout with its picture, into `folder`; keeps the last `keep`.

    Args:
        run: the run directory.
        folder: exists, and may hold other files, which are left alone.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, run: Path, folder: Path, keep: int) -> None:
        if not folder.is_dir():
            raise ConfigError(
                f"--publish {folder}: there is no such folder; give the one that the LoRAs are taken from"
            )
        self._run, self._folder, self._keep = run, folder, keep

    def __call__(self, round_: int) -> Path:
        """Publishes the LoRA as of `round_`, the newest finished round, and removes older ones; returns the file.

        A file appears whole or not at all, its picture before it. One that is there already is left as it is.

        Raises:
            RunError, ModelError, ConfigError: see `hero.export.export`.
        """
        name = self._run.resolve().name
        file = self._folder / f"{name}-r{round_:04d}.safetensors"
        if not file.exists():
            export(self._run, _FORMAT, file)
        published = sorted(self._folder.glob(f"{escape(name)}-r[0-9][0-9][0-9][0-9].safetensors"))
        for old in [each for each in published if _is_of(each, name)][: -self._keep]:
            for each in (old, *(old.with_suffix(ending) for ending in FORMATS[_FORMAT].beside)):
                with suppress(FileNotFoundError):
                    each.unlink()
        return file


def _is_of(file: Path, run: str) -> bool:
    """Whether the file was published for a run of that name: another one of a similar name is the user's."""
    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
    except (OSError, SafetensorError):
        return False
    return about.get("modelspec.title") == run and about.get("ss_output_name") == file.stem
