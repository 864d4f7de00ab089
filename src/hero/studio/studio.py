"""The studio: everything that its routes do with the runs of a folder."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hero import __version__
from hero.config import Config
from hero.errors import ConfigError, FeedbackError, HeroError, RunError
from hero.methods import METHODS
from hero.run.branch import branch
from hero.run.directory import RunDirectory, being_trained
from hero.run.finished import FinishedRun
from hero.studio.folder import OWN, Runs
from hero.studio.job import DetachedJob, Jobs
from hero.studio.messages import Draw, ExportKind
from hero.studio.models import Models
from hero.studio.overview import Overview
from hero.studio.queue import Queue
from hero.studio.results import DRAWS, EVALUATE, EXPORTS, readable
from hero.studio.settings import described, flat
from hero.studio.standing import Doing, doing, send, training_of
from hero.studio.wish import Checked, Wish, checked, wish_of
from hero.tasks import TASKS
from hero.web.errors import ApiError

__all__ = ["Studio"]

_ASKED_HERE = ("web", "oracle")
_SOME_PROMPT = "an image"


def _usual(wish: Wish) -> Wish:
    """The same wish with nothing but task, model and method chosen."""
    kept = {name: getattr(wish, name) for name in ("task", "model", "method", "like")}
    return Wish(prompts=[_SOME_PROMPT], **kept)


class Studio:
    """What the routes call; safe to use from several threads, and alone with its folder.

    Args:
        root: the folder of runs; made if need be.
        models: folders with models that a page may name.

    Raises:
        RunError: another studio serves that folder, or it cannot be used.
        ConfigError: one of `models` is no folder.
    """

    def __init__(self, root: Path, models: Sequence[Path] = ()) -> None:
        self.runs = Runs(root)
        self._alone = _claim(self.runs.state / ".lock")
        try:
            self.models = Models(models)
            self.queue = Queue(self.runs.state / "queue.json")
        except BaseException:
            self._alone.close()
            raise
        self.overview = Overview(self.runs, self.queue.place)
        self.jobs = Jobs()
        self._deciding = threading.RLock()

    def close(self) -> None:
        """Lets another studio serve the folder. What was started goes on."""
        self._alone.close()

    # ------------------------------------------------------------------ the queue

    @property
    def has_to_watch(self) -> bool:
        """Whether something waits for its turn, or a process may end of which the system must be told."""
        return bool(self.queue.waiting) or self.jobs.any_running

    def tick(self) -> None:
        """Starts what waits, if nothing is being trained in this folder."""
        with self._deciding:
            while (waiting := self.queue.waiting) and not self.busy():
                first = waiting[0]
                with contextlib.suppress(ApiError):  # it was removed by hand
                    path = self.runs.path(first.run)
                    try:
                        self._train(path, first.rounds)
                    except HeroError as error:
                        self.jobs.refuse(training_of(path), str(error))
                self.queue.remove(first.run)

    def busy(self, but: str | None = None) -> str | None:
        """The name of a run in this folder, other than `but`, that is being trained; None if there is none."""
        for name in self.runs.names():
            path = self.runs.root / name
            if name != but and (being_trained(path) or training_of(path).running):
                return name
        return None

    # ------------------------------------------------------------------ new runs

    def options(self) -> dict[str, Any]:
        """What a form can offer."""
        return {
            "version": __version__,
            "root": str(self.runs.root),
            "tasks": [
                {
                    "name": task.name,
                    "title": task.title,
                    "prompts": list(task.prompts),
                    "criterion": task.criterion,
                    "model": task.judge_model,
                    "sensitive": task.sensitive,
                }
                for task in TASKS.values()
            ],
            "methods": [{"name": name, "summary": method.summary} for name, method in METHODS.items()],
            "models": [vars(one) for one in self.models.found()],
            "settings": described(),
        }

    def check(self, wish: Wish) -> dict[str, Any]:
        """Whether `wish` could become a run: what is wrong, and every setting that it would have.

        Where something is wrong, the settings are those usual for its method and model, and `labels` is None.
        """
        found = self._checked(wish)
        problems = [vars(problem) for problem in found.problems]
        if problems and not wish.prompts:  # a form that is still empty shows the usual values all the same
            found = self._checked(wish.model_copy(update={"prompts": [_SOME_PROMPT]}))
        if wish.name:
            try:
                self.runs.new_path(wish.name)
            except ApiError as error:
                problems.append({"field": "name", "message": error.message})
        labels = None if found.config is None else found.config.rounds * found.config.sampling.images_per_round
        # What is wrong may stand in a table that only the method's usual values bring to light.
        config = found.config or self._checked(_usual(wish)).config
        values = None if config is None else flat(config.model_dump(mode="json"))
        return {"problems": problems, "values": values, "labels": labels}

    def configuration(self, wish: Wish) -> Config:
        """The configuration that `wish` amounts to.

        Raises:
            ApiError: 422, something is wrong with it.
        """
        found = self._checked(wish)
        if found.config is None:
            first = found.problems[0]
            raise ApiError(422, "bad-wish", first.message, first.field)
        return found.config

    def create(self, wish: Wish, *, start: bool) -> str:
        """Makes a run of `wish`; returns its name.

        Raises:
            ApiError: something is wrong with the wish or its name.
            RunError: its folder cannot be written.
        """
        config = self.configuration(wish)
        path = self.runs.new_path(wish.name)
        RunDirectory.create(path, config).unlock()
        if start:
            self.start(wish.name)
        return wish.name

    def form(self, name: str) -> Wish:
        """The form that would make a run like `name`.

        Raises:
            ApiError: there is no such run, or it cannot be read.
        """
        return wish_of(readable(self.runs.path(name)))

    def _checked(self, wish: Wish) -> Checked:
        also = []
        if wish.like is not None:
            also.append(readable(self.runs.path(wish.like)).config.model.path)
        return checked(wish, self.models, also)

    # ------------------------------------------------------------------ runs

    def start(self, name: str, *, rounds: int | None = None, now: bool = False) -> None:
        """Has the run go on: at once if nothing else is being trained in this folder, else when its turn comes.

        Args:
            rounds: how many it shall have in all; None: as many as it is set to.
            now: whatever else is going on.

        Raises:
            ApiError: it is going on already, it is finished, or it needs what a page may not start.
        """
        with self._deciding:
            path = self.runs.path(name)
            run = readable(path)
            current = self._doing(run)
            if current.active:
                raise ApiError(409, "run-active", f"{name} is at work already.")
            if (run.config.rounds if rounds is None else rounds) <= len(run.history):
                raise ApiError(409, "run-finished", f"{name} has done all its rounds; add some.")
            if run.config.evaluator.name not in _ASKED_HERE:
                message = (
                    f"{name} is judged by {run.config.evaluator.name!r}, which only a command line may load: "
                    f"hero resume {path}"
                )
                raise ApiError(409, "needs-terminal", message)
            if not now and (self.busy() is not None or self.queue.waiting):
                self.queue.add(name, rounds)
            else:
                self._train(path, rounds)
                self.queue.remove(name)

    def _train(self, path: Path, rounds: int | None) -> None:
        more = [] if rounds is None else ["--rounds", str(rounds)]
        self.jobs.start(training_of(path), ["resume", str(path), "--no-page", *more])

    def more_rounds(self, name: str, rounds: int) -> None:
        """Adds `rounds` rounds to the run, and has it go on if it does not.

        Raises:
            ApiError: it cannot have more, or be told.
        """
        run = readable(self.runs.path(name))
        current = self._doing(run)
        if current.active and current.what == "evaluating":
            raise ApiError(409, "run-busy", f"{name} is being measured; add rounds when that is done.")
        if current.active:
            self._command(run, current, "more-rounds", {"rounds": rounds})
        else:
            self.start(name, rounds=run.config.rounds + rounds)

    def stop(self, name: str) -> None:
        """Has the run end, with everything kept; a run that waits for its turn does not get it.

        Raises:
            ApiError: it is not at work, or was started elsewhere and takes no commands.
        """
        if self.queue.place(name) is not None:
            self.queue.remove(name)
            return
        run = readable(self.runs.path(name))
        current = self._doing(run)
        if not current.active:
            raise ApiError(409, "run-idle", f"{name} is not at work.")
        listens = run.config.evaluator.name == "web" and current.what not in ("starting", "evaluating")
        if listens:
            self._send(run, "finish" if current.what == "lingering" else "stop")
        elif not training_of(run.path).signal(signal.SIGINT):
            message = f"{name} was started elsewhere and takes no commands; press Ctrl-C in its terminal."
            raise ApiError(409, "needs-terminal", message)

    def kill(self, name: str) -> None:
        """Ends the run's process at once; everything that was acknowledged is on disk.

        Raises:
            ApiError: no process of it was started here.
        """
        if not training_of(self.runs.path(name)).signal(signal.SIGKILL):
            raise ApiError(409, "needs-terminal", f"No process of {name} was started from here.")

    def command(self, name: str, kind: str) -> None:
        """Sends the run `pause`, `resume` or `finish`.

        Raises:
            ApiError: it is not at work, or takes no commands.
        """
        run = readable(self.runs.path(name))
        self._command(run, self._doing(run), kind, {})

    def _command(self, run: FinishedRun, current: Doing, kind: str, body: dict[str, Any]) -> None:
        if not current.active:
            raise ApiError(409, "run-idle", f"{run.name} is not at work.")
        if run.config.evaluator.name != "web":
            raise ApiError(409, "takes-no-commands", f"{run.name} is judged by its oracle and only takes a stop.")
        self._send(run, kind, body)

    def _send(self, run: FinishedRun, kind: str, body: dict[str, Any] | None = None) -> None:
        try:
            send(run, kind, body or {})
        except FeedbackError as error:
            raise ApiError(422, "bad-command", str(error)) from None

    def rename(self, name: str, new: str) -> None:
        """Gives the run another name.

        Raises:
            ApiError: it is at work, or the name cannot be its.
        """
        with self._deciding:
            self._require_quiet(name)
            self.runs.rename(name, new)
            self.queue.rename(name, new)

    def delete(self, name: str) -> Path:
        """Moves the run to the trash; returns where it is now.

        Raises:
            ApiError: it is at work.
        """
        with self._deciding:
            self._require_quiet(name)
            self.queue.remove(name)
            return self.runs.delete(name)

    def go_back(self, name: str, round_: int, new: str) -> None:
        """Makes the run `new` of what `name` was after a round.

        Raises:
            ApiError: that is no longer on disk, or the name cannot be its.
        """
        source = readable(self.runs.path(name))
        target = self.runs.new_path(new)
        try:
            branch(source.path, round_, target)
        except RunError as error:
            raise ApiError(409, "cannot-go-back", str(error)) from None

    def _require_quiet(self, name: str) -> None:
        """Raises ApiError if a process of the studio works in the run's folder, or the run is being trained."""
        path = self.runs.path(name)
        own = path / OWN
        for job in (
            training_of(path),
            DetachedJob(own / EVALUATE),
            *map(DetachedJob, own.glob("draws/*")),
            *map(DetachedJob, own.glob("exports/*")),
        ):
            if job.running:
                raise ApiError(409, "run-active", f"Something is still at work in {name}; stop it first.")

    def _doing(self, run: FinishedRun) -> Doing:
        return doing(run, len(run.history), queued=self.queue.place(run.path.name) is not None)

    # ------------------------------------------------------------------ what is made of a run

    def draw(self, name: str, wanted: Draw) -> str:
        """Draws with what the run has learnt; returns the drawing's id.

        Raises:
            ApiError: it has learnt nothing yet, or is drawing.
        """
        path, run = self._learnt(name)
        folder = path / OWN / DRAWS
        with self._deciding:
            known = sorted(p.name for p in folder.glob("[0-9]*"))
            if any(DetachedJob(folder / one).running for one in known):
                raise ApiError(409, "drawing", f"{name} is drawing already; wait for it, or stop it.")
            number = f"{int(known[-1]) + 1 if known else 1:04d}"
            strengths = list(dict.fromkeys(wanted.strengths))
            arguments = ["generate", str(path), "--out", str(folder / number / "images")]
            arguments += ["--images", str(wanted.images), "--seed", str(wanted.seed)]
            arguments += [f"--prompt={prompt}" for prompt in wanted.prompts]
            arguments += [f"--strength={factor:g}" for factor in strengths]
            about = {**wanted.model_dump(), "strengths": strengths, "labels": run.labels}
            self.jobs.start(DetachedJob(folder / number), arguments, about)
        return number

    def export(self, name: str, kind: ExportKind) -> None:
        """Makes files of the run for other programs; those of an earlier export are replaced.

        Raises:
            ApiError: it has learnt nothing yet, or is being exported.
        """
        path, run = self._learnt(name)
        job = DetachedJob(path / OWN / EXPORTS / kind)
        out = job.folder / "out"
        with self._deciding:
            if job.running:
                raise ApiError(409, "exporting", "That is being made already.")
            shutil.rmtree(out, ignore_errors=True)
            match kind:
                case "report":
                    arguments = ["report", str(path)]
                case "labels":
                    arguments = ["feedback", "export", str(path), "--out", str(out)]
                case "kohya":
                    arguments = ["export", str(path), "--format", kind, "--out", str(out / f"{name}.safetensors")]
                case "diffusers" | "fused":
                    arguments = ["export", str(path), "--format", kind, "--out", str(out)]
            self.jobs.start(job, arguments, {"labels": run.labels})

    def evaluate(self, name: str, *, blind: bool) -> None:
        """Measures the run against its base model; `blind`: by people, at its blind page.

        Raises:
            ApiError: it has learnt nothing yet, or is being measured.
        """
        path, run = self._learnt(name)
        job = DetachedJob(path / OWN / EVALUATE)
        if job.running:
            raise ApiError(409, "evaluating", "That is being measured already.")
        arguments = ["evaluate", str(path), *(["--evaluator", "web", "--no-page"] if blind else [])]
        self.jobs.start(job, arguments, {"blind": blind, "labels": run.labels})

    def stop_job(self, name: str, job: str) -> None:
        """Interrupts a job of the run.

        Raises:
            ApiError: it is not running.
        """
        if not DetachedJob(self.runs.own(name) / job).signal(signal.SIGINT):
            raise ApiError(409, "job-idle", "That is not running any more.")

    def _learnt(self, name: str) -> tuple[Path, FinishedRun]:
        path = self.runs.path(name)
        run = readable(path)
        if not run.history:
            raise ApiError(409, "nothing-learnt", f"{name} has not finished a round yet.")
        return path, run


def _claim(file: Path) -> Any:
    """An open file with a lock that ends with this process.

    Raises:
        RunError: another process has it.
        ConfigError: this system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        raise ConfigError("hero studio needs a system with file locks (Linux, macOS, WSL)") from None
    opened = open(file, "w")  # noqa: SIM115 - held open for as long as the studio lives
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        raise RunError(f"a studio serves {file.parent.parent} already; open its page, or end it first") from None
    return opened
