"""The list of runs: one card for each, made anew only when something in its folder has changed."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hero.config import Config
from hero.errors import HeroError
from hero.ids import image_id
from hero.run.directory import METRICS_FILE, REPORT_FILE, RESULT_FILE, STORE_FILE, being_trained, image_file
from hero.run.finished import FinishedRun
from hero.studio.folder import Runs
from hero.studio.job import DetachedJob
from hero.studio.standing import Doing, doing
from hero.tasks import TASKS
from hero.types import RoundStats
from hero.web.errors import ApiError

__all__ = ["Overview", "card_of"]

_WATCHED = (
    ".",
    "config.toml",
    METRICS_FILE,
    STORE_FILE,
    f"{STORE_FILE}-wal",
    "checkpoints",
    "rounds",
    REPORT_FILE,
    "evaluation",
    f"evaluation/{RESULT_FILE}",
    "evaluation/people/feedback.db-wal",
    "studio",
    "studio/draws",
    "studio/exports",
)
_DEEPER = ("studio/train", "studio/evaluate", "studio/draws/*", "studio/exports/*")

Trace = tuple[object, ...]


class Overview:
    """Cards of the runs in `runs`; safe to use from several threads.

    Args:
        place: the place of a run in the queue, from 1; None if it does not wait.
    """

    def __init__(self, runs: Runs, place: Callable[[str], int | None]) -> None:
        self._runs = runs
        self._place = place
        self._cards: dict[str, tuple[Trace, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def traces(self) -> str:
        """A text that changes whenever a card may."""
        seen = [(name, *self._trace(name)) for name in self._runs.names()]
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    def cards(self) -> list[dict[str, Any]]:
        """Every run, the newest change first."""
        found = []
        for name in self._runs.names():
            try:
                found.append(self.card(name))
            except ApiError:  # gone in the meantime
                continue
        return sorted(found, key=lambda card: (-card["changed"], card["name"]))

    def card(self, name: str) -> dict[str, Any]:
        """One run.

        Raises:
            ApiError: 404, there is no such run.
        """
        path = self._runs.path(name)
        trace = self._trace(name)
        with self._lock:
            kept = self._cards.get(name)
        if kept is None or kept[0] != trace:
            kept = (trace, card_of(path, archived=self._runs.is_archived(name), place=self._place(name)))
            with self._lock:
                self._cards[name] = kept
        return kept[1]

    def _trace(self, name: str) -> Trace:
        path = self._runs.root / name
        watched = [path / one for one in _WATCHED]
        jobs = [job for pattern in _DEEPER for job in sorted(path.glob(pattern))]
        watched += jobs
        newest = max(_names(path / "rounds"), default=None)
        if newest is not None:
            watched.append(path / "rounds" / newest / "images")
        stats = tuple(_stamp(one) for one in watched)
        return (*stats, being_trained(path), *(DetachedJob(job).running for job in jobs), self._place(name))


def card_of(path: Path, *, archived: bool, place: int | None) -> dict[str, Any]:
    """What the list shows of the run in `path`; one that cannot be read says why in `broken`."""
    own = {"name": path.name, "archived": archived, "place": place, "disk": _size(path), "changed": _changed(path)}
    try:
        run = FinishedRun(path)
        history = run.history
        return {**own, **_about(run.config), **_figures(run, history, place), "broken": ""}
    except HeroError as error:
        return {**own, "broken": str(error), "doing": Doing("failed", False, message=str(error)).to_dict()}


def _about(config: Config) -> dict[str, Any]:
    task = TASKS.get(config.task.name)
    return {
        "task": config.task.name,
        "title": "" if task is None else task.title,
        "prompts": list(config.task.prompts),
        "criterion": config.task.criterion,
        "sensitive": task is not None and task.sensitive,
        "method": config.method,
        "model": config.model.path,
        "evaluator": config.evaluator.name,
        "people": config.evaluator.people,
        "rounds": config.rounds,
        "images_per_round": config.sampling.images_per_round,
    }


def _figures(run: FinishedRun, history: list[RoundStats], place: int | None) -> dict[str, Any]:
    evaluation = run.evaluation
    success = None
    for figures in (evaluation, (evaluation or {}).get("people")):
        if figures is not None and figures["success"].get("base") is not None:
            success = {
                key: [figures["success"][key], figures["success_interval"][key]]
                for key in ("base", "tuned_fresh")
                if figures["success"].get(key) is not None
            }
            break
    return {
        "finished_rounds": len(history),
        "labels": history[-1].labels if history else 0,
        "shares": [s.good / (s.good + s.bad) if s.good + s.bad else None for s in history],
        "success": success,
        "picture": _picture(run.path, history),
        "doing": doing(run, len(history), queued=place is not None).to_dict(),
        "lora": run.lora_file.is_file(),
    }


def _picture(path: Path, history: list[RoundStats]) -> str | None:
    """The id of the image that stands for the run: its best, or the first one of its newest round."""
    wanted = [*history[-1].best[:1], image_id(history[-1].round, 0)] if history else []
    for name in [*wanted, image_id(len(history) + 1, 0)]:
        if image_file(path, name).is_file():
            return name
    return None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _changed(path: Path) -> float:
    """When something last happened to the run, in seconds since the epoch."""
    stamps = [_stamp(path / one) for one in ("config.toml", METRICS_FILE, STORE_FILE, f"evaluation/{RESULT_FILE}")]
    return max((stamp[0] for stamp in stamps if stamp is not None), default=0) / 1e9


def _size(path: Path) -> int:
    """Bytes of all files in a folder; links are not followed."""
    total, ahead = 0, [str(path)]
    while ahead:
        try:
            with os.scandir(ahead.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        ahead.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
