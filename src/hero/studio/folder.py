"""The folder of runs: which there are, and the only way from a name to a path."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from hero.errors import RunError
from hero.run.directory import being_trained
from hero.web.errors import ApiError

__all__ = ["OWN", "Runs"]

OWN = "studio"
"""The studio's own folder in a run: what its processes printed, what they drew and exported."""

_STATE, _TRASH, _ARCHIVED = ".studio", ".trash", "archived"
_NAME = re.compile(r"[^\W_]([\w .,+()=-]{0,78}[\w)])?")
_CONFIG = "config.toml"


class Runs:
    """The runs directly in `root`; folders whose names begin with a dot are no runs.

    Attributes:
        root: an absolute path.
        state: the studio's own folder there.

    Raises:
        RunError: `root` cannot be made, or is a run itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        if (self.root / _CONFIG).is_file():
            raise RunError(f"{root} is a run; give the folder that it lies in: --runs {self.root.parent}")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.state = self.root / _STATE
            self.state.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot use {root}: {error.strerror}; choose another --runs") from None

    def names(self) -> list[str]:
        """The names of all runs, sorted."""
        with os.scandir(self.root) as entries:
            found = [e.name for e in entries if not e.name.startswith(".") and os.path.isfile(f"{e.path}/{_CONFIG}")]
        return sorted(found)

    def path(self, name: str) -> Path:
        """The folder of the run `name`.

        Raises:
            ApiError: 404, there is no such run.
        """
        single = name and name == os.path.basename(name) and "\\" not in name and "\0" not in name
        if not single or name.startswith(".") or not (self.root / name / _CONFIG).is_file():
            raise ApiError(404, "run-not-found", f"There is no run {name[:80]!r} in this folder.")
        return self.root / name

    def new_path(self, name: str) -> Path:
        """The folder for a new run called `name`; it does not exist yet.

        Raises:
            ApiError: 422, the name cannot be that of a folder everywhere; 409, it is taken.
        """
        if not _NAME.fullmatch(name):
            message = (
                "A name has up to 80 letters, digits, spaces and . , + ( ) = - _, and begins with a letter or digit."
            )
            raise ApiError(422, "bad-name", message, "name")
        path = self.root / name
        if os.path.lexists(path):
            raise ApiError(409, "name-taken", f"There is already something called {name} in this folder.", "name")
        return path

    def own(self, name: str) -> Path:
        """The studio's own folder in the run; it may not exist yet."""
        return self.path(name) / OWN

    def is_archived(self, name: str) -> bool:
        """Whether the run is out of sight."""
        return (self.own(name) / _ARCHIVED).exists()

    def archive(self, name: str, archived: bool) -> None:
        """Puts the run out of sight, or back."""
        mark = self.own(name) / _ARCHIVED
        if archived:
            mark.parent.mkdir(exist_ok=True)
            mark.touch()
        else:
            mark.unlink(missing_ok=True)

    def rename(self, name: str, new: str) -> None:
        """Gives the run another name.

        Raises:
            ApiError: it is being trained, or there is no such run, or `new` cannot be its name.
        """
        path, target = self.path(name), self.new_path(new)
        self._require_idle(path)
        path.rename(target)

    def delete(self, name: str) -> Path:
        """Moves the run to the trash folder; returns where it is now.

        Raises:
            ApiError: it is being trained, or there is no such run.
        """
        path = self.path(name)
        self._require_idle(path)
        trash = self.root / _TRASH
        trash.mkdir(exist_ok=True)
        target = trash / f"{name} {time.strftime('%Y-%m-%d %H.%M.%S')}"
        count = 1
        while os.path.lexists(target):
            count += 1
            target = target.with_name(f"{target.name.split(' #')[0]} #{count}")
        shutil.move(path, target)
        return target

    @staticmethod
    def _require_idle(path: Path) -> None:
        if being_trained(path):
            raise ApiError(409, "run-active", f"{path.name} is being trained; stop it first.")
