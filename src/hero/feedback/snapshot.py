"""An SQLite label store as it is at this moment, copied into memory: the file and its folder stay as they are.

A run in progress is read between two of its writes. A folder that cannot be written (a colleague's, or an archive) can
be read all the same; SQLite's own read-only mode manages that only for some states of its write-ahead log.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from hero.errors import RunError

__all__ = ["snapshot"]


def snapshot(path: Path) -> sqlite3.Connection:
    """A database in memory that holds what the file at `path` does; nothing on disk is created or changed.

    Raises:
        RunError: there is no such file, or it cannot be read.
    """
    if not path.is_file():
        raise RunError(f"there is no label store {path}")
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        _copy(path, memory)
    except (OSError, sqlite3.Error) as error:
        memory.close()
        raise RunError(
            f"the label store {path} cannot be read ({error}); check that it is complete and that you may read it"
        ) from error
    return memory


def _copy(path: Path, memory: sqlite3.Connection) -> None:
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    if index.exists():  # the run is in progress, or was killed: its log counts, and must not be folded into the file
        _backup(path, "readonly_shm=1", memory)
    elif log.exists() and log.stat().st_size:
        # Copied without its index, as in an archive. A writer has an index, so nobody writes. SQLite rebuilds it.
        with tempfile.TemporaryDirectory() as folder:
            for file in (path, log):
                shutil.copyfile(file, Path(folder, file.name))
            _backup(Path(folder, path.name), "", memory)
    else:
        _backup(path, "immutable=1", memory)


def _backup(path: Path, option: str, memory: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&{option}", uri=True)) as source:
        source.backup(memory)
