"""Which models a page may name: the bundled one, those in folders that the user named, and ids on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hero.errors import ConfigError
from hero.model_index import is_folder, pipeline_class
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["Found", "Models"]

_DEPTH = 4
_MOST_FOLDERS = 5000
_LEAST_BYTES = 50_000_000
"""A smaller file is a LoRA or another part, not a whole model."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class Found:
    """A model in one of the folders.

    Attributes:
        path: as a configuration names it, absolute.
        name: how to call it: its place below the folder that was named.
        pipeline: its pipeline's class.
    """

    path: str
    name: str
    pipeline: str


class Models:
    """The models below `folders`.

    Raises:
        ConfigError: one of them is no folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"--models {folder} is not a folder; name one that holds models")
        self._folders = [Path(os.path.abspath(folder)) for folder in folders]

    def found(self) -> list[Found]:
        """Every pipeline folder, and every one-file model that this version can read, by name."""
        models = {one.path: one for folder in self._folders for one in _below(folder)}
        return sorted(models.values(), key=lambda one: one.name)

    def allow(self, model: str, also: Collection[str] = ()) -> str | None:
        """Why a page may not name `model`; None if it may.

        Args:
            also: models that a run in the studio's folder has already.
        """
        if model == TINYWORLD or model in also or model in {one.path for one in self.found()}:
            return None
        if _HUB_ID.fullmatch(model) and not is_folder(model):
            return None
        return (
            f"{model[:120]!r} is neither a model in the folders that hero studio was started with (--models) nor a hub "
            "id such as owner/name"
        )


def _below(root: Path) -> Iterator[Found]:
    ahead, seen = [(root, 0)], 0
    while ahead and seen < _MOST_FOLDERS:
        folder, depth = ahead.pop()
        seen += 1
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        names = {entry.name for entry in entries}
        if "model_index.json" in names:
            yield from _model(folder, root)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                if depth < _DEPTH:
                    ahead.append((Path(entry.path), depth + 1))
            elif entry.name.endswith(".safetensors") and entry.stat().st_size >= _LEAST_BYTES:
                yield from _model(Path(entry.path), root)


def _model(path: Path, root: Path) -> Iterator[Found]:
    found = pipeline_class(str(path))
    if found is not None:
        name = path.name if path == root else path.relative_to(root).as_posix()
        yield Found(str(path), name, found)
