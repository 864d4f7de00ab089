"""A run in progress on the command line: its processes, its people, its progress, and its result."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from hero.cli.app import print_json
from hero.cli.evaluate import measure
from hero.cli.options import CLOSING_SECONDS, listening_lines
from hero.config import Config
from hero.console import closing_lines, progress_bar, quiet_libraries, round_line, say
from hero.errors import ConfigError, HeroError

if TYPE_CHECKING:
    from hero.evaluators import Evaluator, LiveEvaluator
    from hero.people.evaluator import People
    from hero.tuner import Tuner
    from hero.types import ImageChunk, RoundStats
    from hero.web.listening import Listening

__all__ = ["evaluator_of", "finish", "people_at", "publisher_of", "share_work", "train_to_end"]


def share_work(processes: int | None) -> None:
    """Starts the requested processes and waits for them; in a helper process, does the helper's work.

    Returns only in the process that trains the run.
    """
    if "RANK" in os.environ:  # started by torchrun or accelerate, or by the lines below
        from hero.distributed import is_helper, process_count

        if processes is not None and processes != process_count():
            raise ConfigError(f"--processes {processes}, but {process_count()} were started already; leave it out")
        if is_helper():
            quiet_libraries()
            from hero.run.state import help_main

            help_main()
            raise typer.Exit
    elif processes is not None and processes > 1:
        from hero.distributed import launch

        raise typer.Exit(launch(processes, ["-m", "hero", *sys.argv[1:]]))


def evaluator_of(config: Config) -> Evaluator | LiveEvaluator | None:
    """The evaluator that answers in this process; None if people do, at their page."""
    from hero.evaluators import make_evaluator

    return None if config.evaluator.name == "web" else make_evaluator(config)


@contextmanager
def people_at(run: Path, config: Config, console: Console, listening: Listening | None) -> Iterator[People]:
    """The people at the page of `run`, served for as long as the context lasts; None: another process serves it."""
    from hero.feedback import LabelStore
    from hero.people.evaluator import People
    from hero.run import RunDirectory
    from hero.web.process import page_served

    with LabelStore(RunDirectory(run, config).labels_at) as store, ExitStack() as stack:
        if listening is not None:
            page = stack.enter_context(page_served(run, config.evaluator.store, listening))
            say(console, f"label at {page.address}", *listening_lines(listening))
        yield People(store, config.evaluator)
        time.sleep(CLOSING_SECONDS)


def publisher_of(run: Path, folder: Path | None, keep: int, console: Console) -> Callable[[int], None] | None:
    """What puts each round's LoRA into `folder`; one that could not be written is said, and training goes on.

    Raises:
        ConfigError: there is no such folder.
    """
    if folder is None:
        return None
    from hero.export.publish import Publisher

    publisher = Publisher(run, folder, keep)

    def publish(round_: int) -> None:
        try:
            say(console, f"published {publisher(round_)}")
        except HeroError as error:
            say(console, f"not published: {error}")

    return publish


def train_to_end(
    tuner: Tuner,
    evaluator: People | Evaluator | LiveEvaluator | None,
    console: Console,
    publish: Callable[[int], None] | None = None,
) -> list[RoundStats] | None:
    """Trains what is left to train; returns the figures of every round, or None if people stopped the run.

    Args:
        publish: is told the number of each finished round.
    """
    from hero.people.evaluator import People
    from hero.people.session import train_with_people

    assert evaluator is not None
    say(console, *tuner.learner.cut)
    per_round = tuner.config.sampling.images_per_round
    drawn = 0

    def where() -> str:
        return f"round {tuner.round}/{tuner.config.rounds}"

    def advance(completed: int, what: str) -> None:
        update(completed, what, tuner.config.rounds * per_round)  # people may add rounds

    def now(doing: str) -> None:
        advance((min(tuner.round, tuner.config.rounds) - 1) * per_round + drawn, f"{where()} {doing}")

    with progress_bar(console, where(), tuner.config.rounds * per_round) as update:
        advance(len(tuner.history) * per_round, f"{where()} drawing")

        def on_chunk(chunk: ImageChunk) -> None:
            nonlocal drawn
            drawn += len(chunk.images)
            now("drawing" if drawn < chunk.total else "waiting for the answer")

        def on_round(stats: RoundStats) -> None:
            nonlocal drawn
            drawn = 0
            say(console, round_line(stats, tuner.config.rounds))
            if publish is not None:
                publish(stats.round)
            if not tuner.done:
                advance(stats.round * per_round, f"{where()} drawing")

        def on_step(what: str, done: int, total: int) -> None:
            now(f"practising {done}/{total}" if what == "practice" else "learning")

        def on_phase(phase: str, step: str, done: int, total: int) -> None:
            if phase == "learning":
                on_step(step, done, total)
            elif phase == "waiting":
                now("waiting for labels, at the page")
            elif phase == "paused":
                now("paused, from the page")
            elif phase == "finished":
                update(tuner.config.rounds * per_round, "all rounds done")
                linger = tuner.config.evaluator.linger
                if linger:
                    say(
                        console,
                        f"all rounds are done; waiting {linger / 60:.0f} min for more from the page; Finish there, or "
                        "Ctrl-C here, ends the run",
                    )

        tuner.on_step = on_step
        with tuner:
            if isinstance(evaluator, People):
                evaluator.on_phase = on_phase
                done = train_with_people(tuner, evaluator, on_chunk=on_chunk, on_round=on_round)
                return tuner.history if done else None
            return tuner.run(evaluator, on_chunk=on_chunk, on_round=on_round)


def finish(
    run: Path,
    config: Config,
    history: list[RoundStats] | None,
    console: Console,
    as_json: bool,
    people: People | None = None,
) -> None:
    """Evaluates, writes the report and prints the result; if people stopped the run (None), how to continue."""
    if history is None:
        say(console, f"stopped, everything is saved; `hero resume {run}` continues the run")
        return
    from hero.report import write_report
    from hero.run.directory import METRICS_FILE, REPORT_FILE
    from hero.run.finished import FinishedRun
    from hero.trained import TrainedRun

    finished, result = FinishedRun(run), None
    if config.evaluation.after_training:
        on_progress = None if people is None else people.evaluating
        result = finished.current_evaluation or measure(TrainedRun(run), console, on_progress=on_progress)
        write_report(run)
    if not as_json:
        say(console, *closing_lines(run, len(history), result))
    _tell_result(run, history, result, console, people)
    if not as_json:
        return
    print_json(
        {
            "run": str(run),
            "lora": str(finished.lora_file),
            "metrics": str(run / METRICS_FILE),
            "report": str(report_file) if (report_file := run / REPORT_FILE).is_file() else None,
            "rounds": [stats.to_dict() for stats in history],
            "evaluation": result,
        }
    )


def _tell_result(
    run: Path, history: list[RoundStats], result: dict[str, Any] | None, console: Console, people: People | None
) -> None:
    """Shows people the result at their page, until they are done with it."""
    from hero.people.evaluator import RunStopped
    from hero.run.directory import REPORT_FILE

    if people is None:
        return
    people.say_result(result, report=(run / REPORT_FILE).is_file())
    people.on_phase = None
    if people.released:
        say(console, "the page shows the result; Close there, or Ctrl-C here, closes it")
    with suppress(RunStopped, KeyboardInterrupt):
        people.rest(f"`hero resume {run} --rounds {2 * len(history)}` adds rounds, `hero label {run}` shows this page.")
