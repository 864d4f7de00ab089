"""A job: one command of `hero` in a process of its own, which survives whoever started it.

A job is a folder with what was asked (`job.json`), what it printed (`log.txt`) and how it ended (`done.json`). The
process holds a lock on `.lock` for as long as it lives: whether it still runs is asked of the lock, never of a process
number, which might by then be another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hero.errors import RunError
from hero.run.finished import read_json

__all__ = ["DetachedJob", "JobState", "Jobs", "write_atomically"]

_ASKED, _DONE, _LOG, _LOCK, _PID = "job.json", "done.json", "log.txt", ".lock", "pid"
_INTERRUPTED = (0, 130)
_TAIL = 16_384

Standing = Literal["none", "running", "done", "stopped", "failed", "killed"]


@dataclass(frozen=True)
class JobState:
    """How a job stands.

    Attributes:
        standing: `none`, it was never started; `stopped`, it was interrupted; `killed`, it ended without a word.
        started, ended: ISO times in UTC, if known.
        message: why it failed; "" if it did not.
    """

    standing: Standing
    started: str | None = None
    ended: str | None = None
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


class DetachedJob:
    """The job in `folder`, which may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        import fcntl

        try:
            with open(self.folder / _LOCK) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @property
    def asked(self) -> dict[str, Any]:
        """What it was started with; empty if it never was."""
        return read_json(self.folder / _ASKED) or {}

    def state(self) -> JobState:
        """How it stands."""
        asked = self.asked
        if not asked:
            return JobState("none")
        started = asked.get("started")
        done = read_json(self.folder / _DONE)  # it is there before the process has quite ended
        if done is None and self.running:
            return JobState("running", started)
        if done is None:
            message = "It ended without a word: it was killed, ran out of memory, or the machine went down."
            return JobState("killed", started, None, message)
        status, ended = int(done.get("status", 1)), done.get("ended")
        if status == 0:
            return JobState("done", started, ended)
        if status in _INTERRUPTED:
            return JobState("stopped", started, ended)
        return JobState("failed", started, ended, self._reason())

    def log(self) -> str:
        """The end of what it printed."""
        try:
            with open(self.folder / _LOG, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def signal(self, number: signal.Signals) -> bool:
        """Sends `number` to its process; returns whether there is one."""
        if not self.running:
            return False
        try:
            os.kill(int((self.folder / _PID).read_text()), number)
        except (OSError, ValueError):  # it has not begun yet, or has just ended
            return False
        return True

    def _reason(self) -> str:
        lines = [line.strip() for line in self.log().splitlines() if line.strip()]
        own = [line.removeprefix("hero: ") for line in lines if line.startswith("hero: ")]
        return (own or lines or ["It failed without a word."])[-1][:600]


class Jobs:
    """Starts jobs, and takes note of those that have ended."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    @property
    def any_running(self) -> bool:
        """Whether a process that this object started lives; also lets the system forget those that have ended."""
        with self._lock:
            self._children = [child for child in self._children if child.poll() is None]
            return bool(self._children)

    def start(self, job: DetachedJob, arguments: Sequence[str], about: Mapping[str, Any] | None = None) -> None:
        """Starts `hero` with `arguments` as `job`; what the job did before is forgotten, files it made are not.

        Args:
            about: kept in job.json beside the arguments.

        Raises:
            RunError: it is running already, or cannot be started.
        """
        import fcntl

        folder = job.folder
        with self._lock:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with open(folder / _LOCK, "a") as lock, open(folder / _LOG, "ab") as log:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError:
                        raise RunError(f"{folder.name} of {folder.parent.parent.name} is running already") from None
                    log.truncate(0)
                    for old in (_DONE, _PID):
                        (folder / old).unlink(missing_ok=True)
                    asked = {"arguments": list(arguments), "started": _now(), **(about or {})}
                    write_atomically(folder / _ASKED, json.dumps(asked, indent=1))
                    child = subprocess.Popen(
                        [sys.executable, "-m", "hero.studio.worker", str(folder), *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **self._environment, "COLUMNS": "160"},
                        start_new_session=True,  # neither Ctrl-C nor the end of a terminal reaches it
                        pass_fds=(lock.fileno(),),  # the lock is the child's from now on
                    )
            except OSError as error:
                raise RunError(f"cannot start {' '.join(arguments[:1])} in {folder}: {error}") from error
            self._children.append(child)

    def refuse(self, job: DetachedJob, reason: str) -> None:
        """Writes down that `job` could not be started."""
        with contextlib.suppress(OSError):
            job.folder.mkdir(parents=True, exist_ok=True)
            (job.folder / _LOG).write_text(f"hero: {reason}\n", encoding="utf-8")
            write_atomically(job.folder / _ASKED, json.dumps({"arguments": [], "started": _now()}))
            ended(job.folder, 1)


def ended(folder: Path, status: int) -> None:
    """Writes down how the job in `folder` ended."""
    write_atomically(folder / _DONE, json.dumps({"status": status, "ended": _now()}))


def begun(folder: Path) -> None:
    """Writes down which process does the job in `folder`."""
    write_atomically(folder / _PID, str(os.getpid()))


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
