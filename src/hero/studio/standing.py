"""What a run does at this moment, from its locks, its events and its files; reading disturbs nothing."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hero.config import Config
from hero.errors import RunError
from hero.feedback.channel import Channel, DeskState
from hero.feedback.store import LabelStore
from hero.run.directory import RunDirectory, being_trained
from hero.run.finished import FinishedRun
from hero.studio.folder import OWN
from hero.studio.job import DetachedJob

__all__ = ["TRAINING", "Doing", "doing", "events_of", "send", "training_of"]

TRAINING = "train"
"""The job in a run's own folder that trains it."""

What = Literal[
    "new",
    "queued",
    "starting",
    "drawing",
    "waiting",
    "learning",
    "paused",
    "evaluating",
    "lingering",
    "stopped",
    "finished",
    "failed",
]


@dataclass(frozen=True)
class Doing:
    """What a run does.

    Attributes:
        what: `new` has never begun, `lingering` waits after its last round for more to be added.
        active: whether a process is at it.
        ours: whether that process was started by a studio, which can then stop it.
        round: the round it is in; 0 if in none.
        done, total: how far the step is that it is in; 0 of 0 if unknown.
        eta_seconds: what is left of the step, if known.
        message: why it failed, or what it says itself.
    """

    what: What
    active: bool
    ours: bool = False
    round: int = 0
    done: int = 0
    total: int = 0
    eta_seconds: float | None = None
    message: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def training_of(run: Path) -> DetachedJob:
    """The job that trains `run`, if a studio started it."""
    return DetachedJob(run / OWN / TRAINING)


def events_of(run: FinishedRun) -> DeskState | None:
    """What the run last told its pages; None where it has told nothing, or its store is out of reach."""
    try:
        store = run.label_store()
        if store is None:
            return None
        with store:
            state = Channel(store).state()
    except RunError:
        return None
    return state if state.last_event else None


def doing(run: FinishedRun, finished_rounds: int, *, queued: bool) -> Doing:
    """What `run` does, of which `finished_rounds` rounds are done."""
    config, job = run.config, training_of(run.path)
    ours = job.running
    if ours or being_trained(run.path):
        return _active(run, finished_rounds, ours=ours)
    if queued:
        return Doing("queued", False)
    state = job.state()
    if finished_rounds >= config.rounds:
        lost = state.standing in ("failed", "killed")
        return Doing("finished", False, message=f"After the last round: {state.message}" if lost else "")
    if state.standing in ("failed", "killed"):
        return Doing("failed", False, round=finished_rounds + 1, message=state.message)
    if state.standing == "none" and config.evaluator.name == "web":
        told = events_of(run)
        if told is not None and told.phase is not None and told.phase["phase"] == "failed":
            return Doing("failed", False, round=finished_rounds + 1, message=str(told.phase["message"]))
    begun = finished_rounds > 0 or (run.path / "checkpoints").is_dir()
    return Doing("stopped" if begun else "new", False, round=finished_rounds + 1 if begun else 0)


def _active(run: FinishedRun, finished_rounds: int, *, ours: bool) -> Doing:
    if run.config.evaluator.name == "web":
        told = events_of(run)
        phase = None if told is None else told.phase
        if phase is not None:
            over = finished_rounds >= run.config.rounds
            what = _of_phase(str(phase["phase"]), str(phase.get("step", "")), ours=ours, over=over)
            round_, done, total = (int(phase.get(key) or 0) for key in ("round", "done", "total"))
            if what != phase["phase"]:
                return Doing(what, True, ours, round_)
            return Doing(what, True, ours, round_, done, total, phase.get("eta_seconds"))
        return Doing("starting", True, ours)
    return _by_files(run.path, run.config, finished_rounds, ours=ours)


def _of_phase(phase: str, step: str, *, ours: bool, over: bool) -> What:
    """The newest phase of a run that is active, whose process may not have said anything yet."""
    if over and (phase, step) == ("stopped", "complete"):  # somebody still looks at the result
        return "lingering"
    match phase:
        case "drawing" | "waiting" | "learning" | "paused" | "evaluating" | "starting":
            return phase
        case "finished":
            return "lingering"
        case _:  # said by the process before this one, or by this one as it ends
            return "evaluating" if over and ours else "starting"


def _by_files(path: Path, config: Config, finished_rounds: int, *, ours: bool) -> Doing:
    """For runs that tell nobody anything: how many images of the next round are on disk."""
    number = finished_rounds + 1
    if finished_rounds >= config.rounds:
        return Doing("evaluating", True, ours)
    shown = _count(path / "rounds" / f"{number:04d}" / "images")
    total = config.sampling.images_per_round
    if shown == 0 and finished_rounds == 0 and not (path / "checkpoints").is_dir():
        return Doing("starting", True, ours)
    if shown < total:
        return Doing("drawing", True, ours, number, shown, total)
    return Doing("learning", True, ours, number)


def _count(folder: Path) -> int:
    try:
        return sum(name.startswith("r") and name.endswith(".png") for name in os.listdir(folder))
    except OSError:
        return 0


def send(run: FinishedRun, kind: str, body: dict[str, Any]) -> None:
    """Sends the run a command, as a page would.

    Raises:
        FeedbackError: there is no such command.
        RunError: its store cannot be written.
    """
    with LabelStore(RunDirectory(run.path, run.config).labels_at) as store:
        Channel(store).command(kind, body, "studio")
